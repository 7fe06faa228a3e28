"""The only place where a thing is excused from its kind's contract; one that no longer deviates fails."""

# (subject, check) -> why
DEVIATIONS: dict[tuple[str, str], str] = {
    ("optimization.OneByteSPSA", "parameters_without_a_gradient_stay"): (
        "no gradient says which parameters a loss depends on, so all move along the random direction"
    ),
}
