"""Error Feedback Reloaded: From Quadratic to Arithmetic Mean of Smoothness Constants."""
