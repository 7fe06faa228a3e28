"""Daily papers you can run: methods as components, claims re-measured on your own machine."""

__version__ = "0.1.0"
