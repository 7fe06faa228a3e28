"""An error indicator-based adaptive reduced order model for nonlinear structural mechanics."""
