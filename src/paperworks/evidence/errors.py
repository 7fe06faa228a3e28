"""Errors that a person can do something about: one line each, which says what to do."""


class UsageError(ValueError):
    """What was asked for can't be done; the message says what can."""


class EvidenceError(ValueError):
    """A file of evidence that can't be read; the message names the file."""
