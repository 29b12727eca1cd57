"""The root command and its table of contents."""

from __future__ import annotations

import sys
from typing import Any

import click
from click.shell_completion import add_completion_class

from tiered_store import __version__
from tiered_store.cli import artifacts, bench, ci, gocommand, keys, origin, service, status, tokens
from tiered_store.cli.completion import BashLine
from tiered_store.cli.session import REFUSED, Program
from tiered_store.cli.streams import discard_output, patient_streams

__all__ = ["main", "program"]


def _show_version(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"tiered-store {__version__}")
        context.exit()


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 the store said no, 2 wrong usage, 3 no daemon.",
)
@click.option(
    "--socket",
    metavar="PATH",
    help="The daemon's socket; else $TIERED_STORE_SOCKET, else the configuration's, else the default place.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long to wait for an answer. Default: 30, and none for put, cp, rm --prefix, artifact put, trees and ci.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show it.")
def program(**_options: Any) -> None:
    """Store and read objects through the tiers of a daemon on this machine."""


for _command in (
    service.serve,
    keys.put,
    keys.get,
    keys.stat,
    keys.ls,
    keys.cp,
    keys.rm,
    artifacts.artifact,
    ci.ci,
    gocommand.gocacheprog,
    status.stats,
    status.ping,
    status.flush,
    service.check_config,
    origin.abort_uploads,
    tokens.token,
    tokens.promote,
    bench.bench,
    service.completion,
):
    program.add_command(_command)

add_completion_class(BashLine)


def main(prog_name: str | None = None) -> None:
    """Run the command line of this process; does not return."""
    patient_streams()
    try:
        sys.exit(program.main(prog_name=prog_name, standalone_mode=True))
    except OSError as error:  # what no command has written: a help text, the version
        discard_output()
        click.echo(f"tiered-store: {error.filename}: {error.strerror}", err=True)
        sys.exit(REFUSED)
