"""Promotion through a real daemon: from a quarantine to what everybody sees."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Callable

from tests.support.authorization import CALLERS, CONTENT, DIALECTS, ask, settings
from tests.support.daemon import RunningDaemon, clean_environment
from tests.support.servers import free_port
from tiered_store import Client
from tiered_store.build.entry import Place, ToolEntry, encode_entry
from tiered_store.key import digest_of, parse_key


def promote(daemon: RunningDaemon, *arguments: str) -> dict[str, object]:
    command = [sys.executable, "-m", "tiered_store", "--socket", str(daemon.socket_path), "promote", *arguments]
    done = subprocess.run([*command, "--json"], env=clean_environment(), capture_output=True, check=True, timeout=60)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def add(client: Client, place: Place, name: str, content: bytes) -> bytes:
    digest = digest_of(parse_key(client.put_artifact(content)))
    body = encode_entry(ToolEntry(digest, len(content), stored_ns=1))
    client.put(place.key(name), body)
    return body


def test_entries_leave_the_quarantine_and_are_everybodys(daemon: RunningDaemon) -> None:
    client = daemon.client()
    quarantine, trusted = Place("gradle", "repo", "pr"), Place("gradle", "repo")
    bodies = {f"{number:032x}": add(client, quarantine, f"{number:032x}", b"%d" % number) for number in range(40)}
    earlier = add(client, trusted, f"{7:032x}", b"of the main branch")
    other = Place("gradle", "repo", "pr2")
    add(client, other, "a", b"of another writer")
    rehearsed = promote(daemon, "pr", "repo", "--dry-run")
    assert (rehearsed["promoted"], rehearsed["kept"]) == (39, 1)
    assert [info.key for info in client.list("build/")] == [trusted.key(f"{7:032x}")]
    assert promote(daemon, "pr", "repo")["promoted"] == 39
    found = client.get_many([trusted.key(name) for name in bodies])
    assert found == {trusted.key(name): body for name, body in bodies.items()} | {trusted.key(f"{7:032x}"): earlier}
    assert [info.key for info in client.list("quarantine/")] == [other.key("a")]


def test_what_a_pull_request_has_built_is_used_after_somebody_has_vouched_for_it(
    daemon_factory: Callable[..., RunningDaemon],
) -> None:
    port = free_port()
    daemon = daemon_factory(config=settings(port))
    callers = {caller.name: caller for caller in CALLERS}
    door = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    paths = [dialect.at("repo", 1) for dialect in DIALECTS.values()]
    for path in paths:  # reads that remember the miss, too
        assert ask(door, callers["cache"], "GET", path).status == 404
        assert ask(door, callers["pr"], "PUT", path, CONTENT).status in {200, 202}
        assert ask(door, callers["cache"], "GET", path).status == 404
    found = promote(daemon, "pr", "repo")
    assert (found["kept"], found["incomplete"]) == (0, 0)
    for path in paths:
        assert ask(door, callers["cache"], "GET", path).body == CONTENT
    door.close()
    assert list(daemon.client().list("quarantine/")) == []
