"""Configuration to store: the one place where concrete classes meet.

Nothing is re-exported: a command that only tries out an origin loads no store.
"""
