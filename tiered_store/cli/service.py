"""Commands that need no daemon: serve is one, check-config judges a file, completion prints a script.

What the daemon needs is imported inside the commands, so that the others do not pay for it.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class

from tiered_store.cli.keys import as_json_option
from tiered_store.cli.origin import try_origin
from tiered_store.cli.output import warn, write_json
from tiered_store.cli.session import REFUSED, USAGE

if TYPE_CHECKING:
    from tiered_store.origins.probe import Step

__all__ = ["check_config", "completion", "serve"]

_COMPLETE_VARIABLE = "_TIERED_STORE_COMPLETE"


def _directory(context: click.Context, option: click.Parameter, value: str | None) -> Path | None:
    """A directory's name. An empty one, which is what an unset variable gives, would mean the current directory."""
    if value == "":
        raise click.BadParameter("must not be empty; name a directory ('.' is the current one)", context, option)
    return None if value is None else Path(value)


@click.command()
@click.option("--config", "file", type=click.Path(path_type=Path), envvar="TIERED_STORE_CONFIG", help="A TOML file.")
@click.option("--socket", metavar="PATH", help="Where to listen.")
@click.option(
    "--data-dir",
    type=click.Path(),
    callback=_directory,
    metavar="DIR",
    help="Keep the origin, the disk tier and the journal in DIR/origin, DIR/cache and DIR/journal.",
)
@click.pass_context
def serve(context: click.Context, file: Path | None, socket: str | None, data_dir: Path | None) -> None:
    """Run the daemon in the foreground. Needs no configuration.

    SIGTERM and SIGINT stop it: requests under way are finished first, a second signal ends it at once.
    """
    if sys.platform != "linux":
        warn(f"the daemon runs on Linux only, and this is {sys.platform}")
        context.exit(USAGE)
    # Tens of thousands of objects are made by the imports and none of them is garbage: letting the collector
    # look at them again and again would be a fifth of the time to the first answer.
    gc.disable()
    try:
        from tiered_store import daemon
        from tiered_store.config.faults import ConfigError
        from tiered_store.config.load import Flags, load
    finally:
        gc.enable()
    named = socket or context.find_root().params.get("socket")
    try:
        loaded = load(file, flags=Flags(socket=Path(named) if named else None, data_dir=data_dir))
    except ConfigError as error:
        _show(error)
        context.exit(USAGE)
    context.exit(daemon.serve(loaded))


@click.command("check-config")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--connect", is_flag=True, help="Then try out the origin: put, get, list and delete an object of its own."
)
@as_json_option
@click.pass_context
def check_config(context: click.Context, file: Path, connect: bool, json_output: bool) -> None:
    """Judge a configuration FILE and touch nothing.

    Takes the environment into account as serve would. Prints one line per fault and exits with 2 if there are any.

    With --connect the origin is used as serve would, with an object that nobody else can have and that is removed
    again. Each step is a line: "ok", or what to change (a setting, a permission). Exits with 1 if one fails. The time
    for all of them is --timeout, else a minute.
    """
    from tiered_store.config.faults import ConfigError
    from tiered_store.config.load import load
    from tiered_store.config.providers import said_origin

    try:
        loaded = load(file)
    except ConfigError as error:
        _show(error)
        context.exit(USAGE)
    for notice in loaded.notices:
        warn(notice)
    if not json_output:
        click.echo(f"{file}: no faults")
    steps: list[Step] = []
    if connect:
        origin = said_origin(loaded.config)
        if not json_output:
            click.echo(origin)
        timeout_s: float | None = context.find_root().params.get("timeout")
        steps = try_origin(loaded.config, timeout_s, show=(lambda _: None) if json_output else _show_step)
    is_good = not any(step.fault for step in steps)
    if json_output:
        tried = [{**asdict(step), "took_s": round(step.took_s, 6)} for step in steps]
        write_json({"file": str(file), "origin": said_origin(loaded.config), "ok": is_good, "steps": tried})
    if not is_good:
        context.exit(REFUSED)


def _show_step(step: Step) -> None:
    state = "not tried: " if step.skipped else "fails: " if step.fault else f"ok  {step.took_s * 1000:.0f} ms"
    click.echo(f"  {step.name:<20} {state}{step.fault}")


def _show(error: Exception) -> None:
    click.echo(str(error), err=True)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    r"""Print the completion script for SHELL.

    It completes commands, options, and keys where a daemon answers.

    \b
    bash:  eval "$(tiered-store completion bash)"                    in ~/.bashrc
    zsh:   eval "$(tiered-store completion zsh)"                     in ~/.zshrc
    fish:  tiered-store completion fish > ~/.config/fish/completions/tiered-store.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "tiered-store", _COMPLETE_VARIABLE).source())
