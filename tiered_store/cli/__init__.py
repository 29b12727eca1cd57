"""The command line. Commands that talk to a daemon import nothing but the client: they start in milliseconds.

``gocacheprog`` starts in fewer: each go command waits for it. Where its options are simple, nothing of the command line
is loaded at all.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main(prog_name: str | None = None) -> None:
    """Run the command line of this process; does not return."""
    if sys.argv[1:2] == ["gocacheprog"]:
        from tiered_store.cli.gocacheprog import run_quickly

        run_quickly(sys.argv[2:])
    from tiered_store.cli.program import main as run

    run(prog_name)
