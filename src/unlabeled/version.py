"""The version of the package."""

__version__ = "0.1.0"
"""Also in the files that the package writes."""
