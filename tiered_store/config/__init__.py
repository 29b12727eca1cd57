"""Settings: models, and where their values come from.

Only ``wiring``, ``daemon`` and ``cli`` read this room. Nothing in it touches what it describes: a
configuration is judged whole, with all its faults at once, before a file or a socket is created.

Nothing is re-exported: ``sizes`` is used by commands that must start without pydantic.
"""
