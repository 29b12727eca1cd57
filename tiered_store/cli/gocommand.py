"""The command gocacheprog as the command line knows it: its help, and what is wrong with its options."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from tiered_store.cli.gocacheprog import configured
from tiered_store.gocache.options import OPTIONS, options_of
from tiered_store.gocache.program import serve

__all__ = ["gocacheprog"]


@click.command()
@click.pass_context
def gocacheprog(context: click.Context, /, **given: Any) -> None:
    """Be the cache program of a go command.

    For GOCACHEPROG="tiered-store gocacheprog", with Go 1.24 or later: go starts it, and talks to it on standard input
    and output. Files that the daemon has are brought into a directory of Go's own, where go finds them; what go builds
    is put there, and into the daemon in the background.
    """
    said = {name.replace("_", "-"): value for name, value in given.items()}
    said["socket"] = said["socket"] or context.find_root().params.get("socket")
    try:
        options = options_of(said, os.environ)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    sys.exit(serve(options, configured))


for _option in OPTIONS:
    _shown = f"{_option.text} ${_option.variable}." if _option.variable else _option.text
    gocacheprog.params.append(
        click.Option([f"--{_option.name}"], metavar=_option.metavar, help=_shown)
        if _option.metavar
        else click.Option([f"--{_option.name}"], is_flag=True, help=_shown)
    )
