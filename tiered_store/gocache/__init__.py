"""Go's cache program: what a go command asks on standard input, answered from a directory of its own and from a daemon.

Every go command starts this program and waits for it, so imports are counted in milliseconds here: what a build that
is wholly cached needs loads neither ``typing`` nor ``json`` nor ``threading``, and no client (``tests/test_floors.py``
looks). The rest is imported by whoever meets the first miss.
"""
