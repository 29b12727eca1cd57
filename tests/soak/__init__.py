"""The soak: everything at once, for minutes, against a model of what must be readable."""
