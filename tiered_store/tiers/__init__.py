"""Places that may forget."""
