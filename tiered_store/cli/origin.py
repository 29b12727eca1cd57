"""What speaks to the origin itself, without a daemon: trying it out, and clearing away what uploads have left.

Everything is imported inside, as in ``service``. What the SDK would log is left out: the results say it.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from tiered_store.cli.keys import as_json_option
from tiered_store.cli.output import warn, write_json
from tiered_store.cli.session import USAGE, endings
from tiered_store.errors import StoreError

if TYPE_CHECKING:
    from tiered_store.config.load import Loaded
    from tiered_store.config.model import Config
    from tiered_store.origins.probe import Step
    from tiered_store.origins.s3uploads import Unfinished

__all__ = ["abort_uploads", "try_origin"]

T = TypeVar("T")

_TIMEOUT_S = 60.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
#: Nobody sends one object for a day.
_OLDER_THAN = "24h"


def try_origin(config: Config, timeout_s: float | None, *, show: Callable[[Step], None]) -> list[Step]:
    """Try everything that the daemon will ask of the origin.

    Args:
        config: names it.
        timeout_s: for all steps together; None for a minute.
        show: called with each step when it is over.

    Returns:
        all steps.
    """

    async def run() -> list[Step]:
        from tiered_store.origins.probe import Step
        from tiered_store.wiring.probes import open_probe

        done = []
        try:
            async with open_probe(config, timeout_s or _TIMEOUT_S) as probe, aclosing(probe.steps()) as steps:
                async for step in steps:
                    done.append(step)
                    show(step)
        except StoreError as error:
            done.append(Step("start", error.message))
            show(done[-1])
        return done

    return _run(run())


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run what is asynchronous, without what it would log; a signal that ends the process unwinds it first.

    By cancelling it: an exception out of a signal handler may hit the event loop between taking a callback from its
    queue and calling it, and the task that was to be woken then waits for ever. ``asyncio`` does so for SIGINT itself.
    """
    import asyncio
    import logging

    logging.getLogger().addHandler(logging.NullHandler())
    signals: list[int] = []

    async def run() -> T | None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end(number: int) -> None:
            if not signals:  # the end is under way, and short
                task.cancel()
            signals.append(number)

        for number in endings():
            loop.add_signal_handler(number, end, number)
        try:
            return await work
        except asyncio.CancelledError:
            if not signals:
                raise
            return None

    result = asyncio.run(run())
    if signals:
        sys.exit(128 + signals[0])
    return cast("T", result)


def _seconds(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", value.strip(), re.ASCII)
    if match is None:
        raise click.BadParameter(f"{value!r} is no time such as '24h' (s, m, h or d; without one seconds)")
    return float(match[1]) * _UNITS[match[2] or "s"]


@click.command("abort-uploads")
@click.argument("file", required=False, type=click.Path(path_type=Path), envvar="TIERED_STORE_CONFIG")
@click.option(
    "--older-than",
    "age_s",
    default=_OLDER_THAN,
    show_default=True,
    callback=_seconds,
    metavar="TIME",
    help="Leave younger ones alone, which may be under way: 90s, 30m, 24h, 7d.",
)
@click.option("--dry-run", is_flag=True, help="Show them and abort nothing.")
@as_json_option
@click.pass_context
def abort_uploads(context: click.Context, file: Path | None, age_s: float, dry_run: bool, json_output: bool) -> None:
    """Remove what unfinished uploads left in a bucket.

    FILE is the daemon's configuration; the environment counts as it does for serve. An object that is sent in parts
    leaves them behind where the daemon was killed meanwhile: nobody sees them, and they are paid for. Touched are those
    below s3.prefix whose names a daemon could have written. No daemon is needed; one that runs is not disturbed.
    """
    from tiered_store.config.faults import ConfigError
    from tiered_store.config.load import load

    try:
        loaded = load(file)
    except ConfigError as error:
        click.echo(str(error), err=True)
        context.exit(USAGE)
    for notice in loaded.notices:
        warn(notice)
    if loaded.config.origin.backend != "s3":
        warn(f"origin.backend is {loaded.config.origin.backend!r}: only an S3 origin has unfinished uploads")
        context.exit(USAGE)
    before_ns = time.time_ns() - int(age_s * 1e9)
    old, young, aborted = _run(_abort(loaded, before_ns, dry_run=dry_run))
    if json_output:
        uploads = [{"name": upload.name, "upload_id": upload.upload_id, "begun": _iso(upload)} for upload in old]
        write_json({"uploads": uploads, "aborted": aborted, "left_alone": young, "dry_run": dry_run})
        return
    for upload in old:
        click.echo(f"{_iso(upload)}  {upload.name}")
    done = "to be aborted" if dry_run else "aborted"
    click.echo(f"{len(old) if dry_run else aborted} {done}, {young} younger ones left alone")


async def _abort(loaded: Loaded, before_ns: int, *, dry_run: bool) -> tuple[list[Unfinished], int, int]:
    """Those that are old enough, how many others there are, and how many were aborted."""
    from tiered_store.wiring.probes import open_bucket

    old: list[Unfinished] = []
    young = aborted = 0
    async with open_bucket(loaded.config) as bucket:
        uploads = bucket.unfinished()
        async with aclosing(uploads.pages()) as pages:
            async for page in pages:
                found = [upload for upload in page if 0 < upload.begun_ns < before_ns]
                young += len(page) - len(found)
                old += found
        if not dry_run:
            aborted = await uploads.abort(old)
    return old, young, aborted


def _iso(upload: Unfinished) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(upload.begun_ns / 1e9))
