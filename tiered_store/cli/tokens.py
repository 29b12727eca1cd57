"""Commands on who is trusted: token new makes a token, promote brings a quarantined writer's entries to everybody."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

import click

from tiered_store.cli.keys import as_json_option
from tiered_store.cli.output import warn, write_json
from tiered_store.cli.session import connect
from tiered_store.errors import NotFound

if TYPE_CHECKING:
    from tiered_store.build.entry import ToolEntry
    from tiered_store.client.sync import Client

__all__ = ["promote", "token"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}\Z")  # as build/entry.py has it
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Entries are looked at so many at a time.
_BATCH = 256


def _name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A writer's, dialect's or instance's name."""
    if value is not None and not _NAME.match(value):
        message = f"{value!r} is not 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first"
        raise click.BadParameter(message, context, parameter)
    return value


@click.group()
def token() -> None:
    """Make tokens for the HTTP door."""


@token.command("new")
@click.argument("name", callback=_name)
@click.option("--role", type=click.Choice(["read", "write", "admin"]), default="read", show_default=True)
@click.option("--prefix", "prefixes", multiple=True, metavar="PREFIX", help="Only keys that begin so; may be repeated.")
@click.option(
    "--instance",
    "instances",
    multiple=True,
    metavar="NAME",
    help="Only this instance of build caches; may be repeated.",
)
@click.option("--list", "can_list", is_flag=True, help="Listings, and deletes by prefix, are allowed.")
@click.option("--quarantine", is_flag=True, help="What it writes to build caches is seen by itself only.")
@as_json_option
def new(
    name: str,
    role: str,
    prefixes: tuple[str, ...],
    instances: tuple[str, ...],
    can_list: bool,
    quarantine: bool,
    json_output: bool,
) -> None:
    """Make a token called NAME, and the lines of the configuration by which the daemon will know it.

    The token is printed once and kept nowhere: the configuration holds its hash only. The daemon knows it after a
    reload (SIGHUP) or a restart.
    """
    from tiered_store.servers.credentials import hash_of, new_token

    rule: dict[str, object] = {}
    if can_list:
        rule["can_list"] = True
    if prefixes or instances or quarantine:  # who says one says the other, so that neither is allowed by an oversight
        rule |= {"prefixes": list(prefixes), "instances": list(instances)}
    if quarantine:
        rule["quarantine"] = True
    if role == "admin" and rule:
        raise click.UsageError("an administrator may do everything: leave out --role admin, or the other options")
    if quarantine and role != "write":
        raise click.UsageError("--quarantine is about what is written: add --role write")
    secret = new_token()
    said = {"name": name, "hash": f"sha256:{hash_of(secret)}", "role": role, **rule}
    # JSON's texts, booleans and lists of texts are TOML's too.
    lines = ["[[access.tokens]]", *(f"{setting} = {json.dumps(value)}" for setting, value in said.items())]
    if json_output:
        write_json({"token": secret, "rule": said, "toml": "\n".join(lines) + "\n"})
        return
    click.echo(f"{secret}\n\n# For the daemon's configuration:\n" + "\n".join(lines))


@dataclass(slots=True)
class _Counts:
    """What became of the entries that were found."""

    promoted: int = 0
    kept: int = 0
    incomplete: int = 0
    later: int = 0


def _time(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime:
    """A moment; this one where none is said."""
    if value is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        message = f"{value!r} is no time such as 2026-03-01T12:00:00+00:00"
        raise click.BadParameter(message, context, parameter)
    return found


@click.command()
@click.argument("writer", callback=_name)
@click.argument("instance", callback=_name)
@click.option("--dialect", callback=_name, metavar="NAME", help="Only what one kind of tool has written, e.g. ccache.")
@click.option("--overwrite", is_flag=True, help="Also where everybody sees another entry under the same key.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option(
    "--as-of",
    callback=_time,
    metavar="TIME",
    help="Leave what was stored since then, such as the time that a --dry-run says. Default: now.",
)
@as_json_option
@click.pass_context
def promote(
    context: click.Context,
    writer: str,
    instance: str,
    dialect: str | None,
    overwrite: bool,
    dry_run: bool,
    as_of: datetime,
    json_output: bool,
) -> None:
    """Let everybody see what a quarantined WRITER has stored.

    INSTANCE says which. Whoever promotes vouches for it: nothing here can tell a right output from a wrong one. An
    entry is brought over if its content is there; what everybody sees already stays, and what was dealt with leaves
    the quarantine. Incomplete entries stay, and so do those that were stored after --as-of: nobody has vouched for what
    the writer puts there meanwhile.
    """
    counts = _Counts()
    until_ns = (as_of - _EPOCH) // timedelta(microseconds=1) * 1000
    with connect(context, is_long=True) as client:
        for batch in _quarantined(client, writer, instance, dialect):
            _promote(client, batch, counts, until_ns, overwrite=overwrite, dry_run=dry_run)
    found = asdict(counts)
    if json_output:
        write_json({"writer": writer, "instance": instance, "dry_run": dry_run, "as_of": as_of.isoformat(), **found})
        return
    if not any(found.values()):
        raise NotFound(f"nothing of {writer} is in quarantine for {instance}")
    would = "would be " if dry_run else ""
    rest = f"{counts.kept} were there already, {counts.incomplete} without their content"
    later = f", {counts.later} were stored later" if counts.later else ""
    click.echo(f"{counts.promoted} {would}promoted, {rest}{later}")
    if dry_run:
        click.echo(f"to promote these and none that come later: --as-of {as_of.isoformat()}")


def _quarantined(client: Client, writer: str, instance: str, dialect: str | None) -> Iterator[dict[str, str]]:
    """Keys of what a writer has in quarantine, each with the key under which everybody would see it."""
    from tiered_store.build.entry import ENTRY_MAX_BYTES, ENTRY_PREFIX, QUARANTINE_PREFIX

    above = f"{QUARANTINE_PREFIX}{writer}/"
    keys = (
        info.key
        for info in client.list(f"{above}{dialect}/{instance}/" if dialect else above)
        if info.size <= ENTRY_MAX_BYTES and info.key.removeprefix(above).split("/", 2)[1:2] == [instance]
    )
    while batch := list(islice(keys, _BATCH)):
        yield {key: ENTRY_PREFIX + key.removeprefix(above) for key in batch}


def _promote(
    client: Client, batch: dict[str, str], counts: _Counts, until_ns: int, *, overwrite: bool, dry_run: bool
) -> None:
    bodies = client.get_many(batch)
    entries = {key: entry for key, body in bodies.items() if (entry := _entry_of(key, body)) is not None}
    has_content = client.exists_many({entry.content for entry in entries.values()})
    is_there = {} if overwrite else client.exists_many(batch.values())
    for key, body in bodies.items():
        if key not in entries or not has_content[entries[key].content]:
            counts.incomplete += 1
            continue
        if entries[key].stored_ns > until_ns:
            counts.later += 1
            continue
        is_kept = is_there.get(batch[key], False)
        if not is_kept and not overwrite and not dry_run:
            # Trusted writers go on meanwhile: they are asked about as late as can be.
            is_kept = client.exists(batch[key])
        counts.kept += is_kept
        counts.promoted += not is_kept
        if dry_run:
            continue
        if not is_kept:
            # The bytes that were judged: a copy would take what the writer has put there since.
            client.put(batch[key], body, content_type="application/json")
        client.delete(key)


def _entry_of(key: str, body: bytes) -> ToolEntry | None:
    from tiered_store.build.entry import decode_entry

    try:
        return decode_entry(body)
    except ValueError as error:
        warn(f"{key} is left where it is: {error}")
        return None
