"""Commands about the daemon: stats, ping and flush."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from tiered_store.cli.keys import as_json_option
from tiered_store.cli.output import table, write_json
from tiered_store.cli.session import connect
from tiered_store.config.sizes import format_size

__all__ = ["flush", "ping", "stats"]

_TIERS = ("memory", "disk")
_OF_TIERS = ("hits", "misses", "errors", "entries", "evictions", "bytes", "max_bytes")
_OF_THE_CDN = (
    "hits",
    "misses",
    "errors",
    "skipped",
    "bytes_read",
    "lies",
    "breaker_opened",
    "breaker_open",
    "purges",
    "purge_errors",
)
_OF_THE_ORIGIN = ("hits", "misses", "errors", "not_modified", "puts", "bytes_read", "bytes_written")
_OF_ITS_GUARD = (
    "retries",
    "retries_refused",
    "hedges",
    "hedges_won",
    "breaker_opened",
    "breaker_refused",
    "breaker_open",
)
_OF_DOORS: tuple[str, ...] = ("connections", "requests", "refused", "malformed")
_OF_DIALECTS: tuple[str, ...] = ("hits", "misses", "failed", "damaged", "puts", "refused")


@click.command()
@as_json_option
@click.pass_context
def stats(context: click.Context, json_output: bool) -> None:
    """Show what the daemon has done and holds."""
    with connect(context) as client:
        numbers = client.stats()
    if json_output:
        write_json(numbers)
        return
    of_one = (("cdn", _OF_THE_CDN), ("origin", _OF_THE_ORIGIN), ("origin", _OF_ITS_GUARD))
    for places, columns in ((_TIERS, _OF_TIERS), *(((place,), columns) for place, columns in of_one)):
        click.echo(table([["", *columns], *_rows(numbers, places, columns)]))
        click.echo()
    written_back = numbers.get("write_back", {})
    if any(value for name, value in written_back.items() if name != "max_bytes"):
        click.echo(table([["write_back", ""], *([name, _cell(name, value)] for name, value in written_back.items())]))
        click.echo()
    for title, section, shown in (("build cache", "build", _OF_DIALECTS), ("sockets", "doors", _OF_DOORS)):
        found = numbers.get(section)
        if found:
            click.echo(table([[title, *shown], *_rows(found, sorted(found), shown)]))
            click.echo()
    for name, value in numbers.items():
        if not isinstance(value, dict):
            click.echo(f"{name:<20} {_cell(name, value)}")


def _rows(numbers: Mapping[str, Any], places: Sequence[str], columns: Sequence[str]) -> Iterator[list[str]]:
    for place in places:
        found = numbers.get(place)
        if isinstance(found, dict):
            yield [place, *(_cell(name, found.get(name)) for name in columns)]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if "bytes" in name.split("_"):
        return format_size(int(value))
    return f"{value:.1f}" if isinstance(value, float) else str(value)


@click.command()
@as_json_option
@click.pass_context
def ping(context: click.Context, json_output: bool) -> None:
    """Ask the daemon whether it is there; exits with 3 if not."""
    with connect(context) as client:
        seconds = client.ping()
        path = client.socket_path
    if json_output:
        write_json({"socket": path, "round_trip_us": round(seconds * 1e6, 1)})
    else:
        click.echo(f"{path} answers in {seconds * 1000:.2f} ms")


@click.command()
@as_json_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long to wait. Default: as long as it takes.",
)
@click.pass_context
def flush(context: click.Context, json_output: bool, timeout: float | None) -> None:
    """Wait until all acknowledged puts are at the origin.

    Only keys whose policy says write_back have puts that are not. Exits with 1 when the time is over, and says what is
    left.
    """
    began = time.monotonic()
    with connect(context, is_long=True) as client:
        count = client.flush(timeout or context.find_root().params.get("timeout"))
    took_s = time.monotonic() - began
    if json_output:
        write_json({"puts": count, "took_s": round(took_s, 3)})
    elif count:
        click.echo(f"{count} waiting {'put is' if count == 1 else 'puts are'} done, after {took_s:.1f} s")
    else:
        click.echo("no put was waiting")
