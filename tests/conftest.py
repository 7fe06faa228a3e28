import jaxtyping
import pytest


@pytest.fixture
def untyped():
    """Switch the runtime type checks off, as they are for a user, whose bad input the code itself has to catch."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
