"""The command line. Commands that talk to a daemon import nothing but the client: they start in milliseconds."""

from tiered_store.cli.program import main

__all__ = ["main"]
