"""Places that must not forget."""
