"""The runtime type checker of the tests: every annotation of the package is checked as it is used."""

from beartype import BeartypeConf, beartype

# An int is fine where a float is asked for (PEP 484), and a violation is the TypeError users would expect.
check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))
