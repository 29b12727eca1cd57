"""Who may do what through a real daemon: every caller, every method, every prefix, every dialect.

Each row is tried where it is allowed and where it is not. Where it is not, the answer is the one for what does not
exist, and nothing has changed.
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from itertools import count

import pytest

from tests.support.authorization import CALLERS, CONTENT, DIALECTS, Answer, Caller, Dialect, ask, settings
from tests.support.daemon import Daemons, RunningDaemon
from tests.support.servers import free_port
from tiered_store import Client
from tiered_store.build.entry import Place
from tiered_store.key import artifact_key, name_of_key, parse_key

PREFIXES = ["open/", "ci/", "build/nx/repo/", "quarantine/pr/nx/repo/"]
ROOT = CALLERS[-1]
EVERY_CALLER = pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.name or "anonymous")
EVERY_DIALECT = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))
EVERY_INSTANCE = pytest.mark.parametrize("instance", ["repo", "other"])
#: Names that nobody has used before.
_numbers = count(1)


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def daemon(port: int) -> Iterator[RunningDaemon]:
    daemons = Daemons()
    try:
        yield daemons.start(config=settings(port))
    finally:
        daemons.close()


@pytest.fixture(scope="module")
def client(daemon: RunningDaemon) -> Client:
    return daemon.client()


@pytest.fixture(scope="module")
def door(daemon: RunningDaemon, port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    yield connection
    connection.close()


def refused(caller: Caller) -> int:
    return 403 if caller.is_known else 401


def fits(prefixes: tuple[str, ...], key: str) -> bool:
    return key.startswith(prefixes) if prefixes else False


@EVERY_CALLER
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reads(door: http.client.HTTPConnection, client: Client, caller: Caller, prefix: str, method: str) -> None:
    number = next(_numbers)
    client.put(f"{prefix}r{number}", b"content")
    there, missing = (ask(door, caller, method, f"/v1/objects/{prefix}{name}{number}") for name in "rm")
    if fits(caller.reads, prefix):
        assert (there.status, missing.status) == (200, 404)
        assert there.body == (b"content" if method == "GET" else b"")
    else:
        assert there.status == refused(caller)
        assert there == missing


@EVERY_CALLER
@pytest.mark.parametrize("prefix", PREFIXES)
def test_writes(door: http.client.HTTPConnection, client: Client, caller: Caller, prefix: str) -> None:
    number = next(_numbers)
    old, new = f"{prefix}old{number}", f"{prefix}new{number}"
    client.put(old, b"content")
    is_allowed = fits(caller.writes, prefix)
    answers = [
        ask(door, caller, "PUT", f"/v1/objects/{new}", b"written"),
        ask(door, caller, "PUT", f"/v1/objects/{old}", b"written"),
    ]
    assert {answer.status for answer in answers} == {200 if is_allowed else refused(caller)}
    assert client.get(old) == (b"written" if is_allowed else b"content")
    assert client.exists(new) is is_allowed
    gone, missing = (ask(door, caller, "DELETE", f"/v1/objects/{key}") for key in (old, f"{prefix}missing{number}"))
    assert client.exists(old) is not is_allowed
    if is_allowed:
        assert (gone.status, missing.status) == (204, 404)
    else:
        assert gone == missing
        assert gone.status == refused(caller)


@EVERY_CALLER
@pytest.mark.parametrize("prefix", PREFIXES)
def test_questions_about_many(door: http.client.HTTPConnection, client: Client, caller: Caller, prefix: str) -> None:
    number = next(_numbers)
    client.put(f"{prefix}r{number}", b"content")
    answers = [
        ask(door, caller, "POST", "/v1/exists", json.dumps({"keys": [f"{prefix}{name}{number}"]}).encode())
        for name in "rm"
    ]
    if fits(caller.reads, prefix):
        assert [json.loads(answer.body)["exists"] for answer in answers] == [[True], [False]]
    else:
        assert answers[0] == answers[1]
        assert answers[0].status == refused(caller)


@EVERY_CALLER
@pytest.mark.parametrize("source", PREFIXES)
@pytest.mark.parametrize("target", PREFIXES)
def test_copies(door: http.client.HTTPConnection, client: Client, caller: Caller, source: str, target: str) -> None:
    number = next(_numbers)
    client.put(f"{source}from{number}", b"content")
    answers = [
        ask(
            door,
            caller,
            "POST",
            "/v1/copy",
            json.dumps({"source": f"{source}{name}{number}", "target": f"{target}to{number}"}).encode(),
        )
        for name in ("missing", "from")
    ]
    is_allowed = fits(caller.reads, source) and fits(caller.writes, target)
    assert client.exists(f"{target}to{number}") is is_allowed
    if is_allowed:
        assert [answer.status for answer in answers] == [404, 200]
    else:
        assert answers[0] == answers[1]
        assert answers[0].status == refused(caller)


@EVERY_CALLER
@pytest.mark.parametrize("prefix", [*PREFIXES, ""])
def test_listings(door: http.client.HTTPConnection, client: Client, caller: Caller, prefix: str) -> None:
    for each in PREFIXES:
        client.put(f"{each}listed", b"")
    is_allowed = fits(caller.lists, prefix) if prefix else "open/" in caller.lists
    query = f"/v1/objects?prefix={prefix}"
    for method in ("GET", "HEAD"):
        assert ask(door, caller, method, query).status == (200 if is_allowed else refused(caller))
    if is_allowed:
        for limit in (1, 1000):
            keys = walked(door, caller, f"{query}&limit={limit}")
            assert keys == [i.key for i in client.list(prefix) if fits((*caller.reads, *caller.lists), i.key)]
            assert not prefix or f"{prefix}listed" in keys


def walked(door: http.client.HTTPConnection, caller: Caller, query: str) -> list[str]:
    """The keys of all pages of a listing. No cursor may tell what the pages do not."""
    keys: list[str] = []
    cursor = ""
    while True:
        page = json.loads(ask(door, caller, "GET", f"{query}&cursor={cursor}").body)
        keys += [found["key"] for found in page["objects"]]
        if page["cursor"] is None:
            return keys
        cursor = page["cursor"]
        assert caller.is_admin or "listed" not in told(cursor) or told(cursor) in keys


def told(cursor: str) -> str:
    """The key in a cursor."""
    return base64.urlsafe_b64decode(cursor).decode()


@EVERY_CALLER
@pytest.mark.parametrize("prefix", PREFIXES)
def test_deletes_by_prefix(door: http.client.HTTPConnection, client: Client, caller: Caller, prefix: str) -> None:
    number = next(_numbers)
    client.put(f"{prefix}d{number}/x", b"")
    answers = [ask(door, caller, "DELETE", f"/v1/objects?prefix={prefix}{name}{number}/") for name in "md"]
    is_allowed = fits(caller.writes, prefix) and fits(caller.lists, prefix)
    assert client.exists(f"{prefix}d{number}/x") is not is_allowed
    if is_allowed:
        assert [json.loads(answer.body)["deleted"] for answer in answers] == [0, 1]
    else:
        assert answers[0] == answers[1]
        assert answers[0].status == refused(caller)


@pytest.mark.parametrize("prefix", ["b", "bui", "build", "q", ""])
def test_nobody_deletes_build_caches_by_the_way(door: http.client.HTTPConnection, client: Client, prefix: str) -> None:
    client.put("build/nx/repo/kept", b"")
    for caller in CALLERS:
        if not caller.is_admin:
            assert ask(door, caller, "DELETE", f"/v1/objects?prefix={prefix}").status in {400, refused(caller)}
    assert client.exists("build/nx/repo/kept")


@EVERY_CALLER
def test_artifacts(door: http.client.HTTPConnection, client: Client, caller: Caller) -> None:
    key = client.put_artifact(b"there")
    missing = artifact_key("0" * 64)
    answers = [ask(door, caller, "GET", f"/v1/objects/{name}") for name in (key, missing)]
    if "sha256:" in caller.reads:
        assert [answer.status for answer in answers] == [200, 404]
    else:
        assert answers[0] == answers[1]
        assert answers[0].status == refused(caller)
    status = 200 if "sha256:" in caller.writes else refused(caller)
    assert ask(door, caller, "PUT", "/v1/artifacts", b"there").status == status
    assert ask(door, caller, "PUT", f"/v1/artifacts/{key}", b"there").status == status
    gone, never = (ask(door, caller, "DELETE", f"/v1/objects/{name}") for name in (key, missing))
    by_prefix = ask(door, caller, "DELETE", f"/v1/objects?prefix={key}")
    assert client.exists(key) is not caller.is_admin
    if caller.is_admin:
        assert (gone.status, never.status, by_prefix.status) == (204, 404, 200)
    else:  # equal content of all is stored once: to delete it would take it from others
        assert gone == never
        assert gone.status == by_prefix.status == refused(caller)


@EVERY_CALLER
def test_artifacts_by_their_name_at_the_origin(
    door: http.client.HTTPConnection, client: Client, caller: Caller
) -> None:
    names = [name_of_key(key) for key in (parse_key(client.put_artifact(b"there")), artifact_key("0" * 64))]
    for method in ("GET", "HEAD"):
        there, missing = (ask(door, caller, method, f"/v1/objects/{name}") for name in names)
        if caller.is_admin:
            assert (there.status, missing.status) == (200, 404)
        else:
            assert there == missing
            assert there.status == refused(caller)
    asked = json.dumps({"keys": names}).encode()
    copied = json.dumps({"source": names[0], "target": f"open/copy{next(_numbers)}"}).encode()
    for path, body in (("/v1/exists", asked), ("/v1/copy", copied)):
        assert ask(door, caller, "POST", path, body).status == (200 if caller.is_admin else refused(caller))
    for name in ("artifacts", "artifacts/sha256"):  # an object there would leave no place for artifacts
        if not caller.is_admin:
            assert ask(door, caller, "PUT", f"/v1/objects/{name}", b"").status == refused(caller)


@EVERY_CALLER
def test_what_concerns_everybody(door: http.client.HTTPConnection, caller: Caller) -> None:
    assert ask(door, caller, "GET", "/v1/stats").status == (200 if caller.is_admin else refused(caller))
    assert ask(door, caller, "GET", "/v1/health").status == 200
    assert ask(door, caller, "GET", "/v1/openapi.json").status == 200


@EVERY_CALLER
@EVERY_DIALECT
@EVERY_INSTANCE
def test_dialects(
    door: http.client.HTTPConnection, client: Client, caller: Caller, dialect: Dialect, instance: str
) -> None:
    number = next(_numbers)
    assert ask(door, ROOT, "PUT", dialect.at(instance, number), CONTENT).status == dialect.stored
    missing = dialect.at(instance, number + 2**30)
    for method in ("GET", "HEAD"):
        there, not_there = ask(door, caller, method, dialect.at(instance, number)), ask(door, caller, method, missing)
        if instance in caller.cache_reads:
            assert there.status == 200
            assert there.body == (CONTENT if method == "GET" else b"")
            assert not_there.status == 404 or not dialect.numbers
        else:  # also for those without a token: some tools end the build for a 401
            assert there.status == 404
            assert there == not_there
    before = entries(client)
    for path in (dialect.at(instance, number), dialect.at(instance, number + 2**29)):
        answer = ask(door, caller, "PUT", path, CONTENT)
        if instance in caller.cache_writes:
            assert answer.status in {dialect.stored, 409}  # what is there already is not replaced by all of them
        else:
            assert answer.status == 403
            assert "www-authenticate" not in answer.headers
    assert (entries(client) == before) is (instance not in caller.cache_writes) or not dialect.numbers


def entries(client: Client) -> set[str]:
    return {info.key for prefix in ("build/", "quarantine/") for info in client.list(prefix)}


@EVERY_DIALECT
def test_what_a_writer_in_quarantine_stores_is_seen_by_nobody_else(
    door: http.client.HTTPConnection, client: Client, dialect: Dialect
) -> None:
    client.delete_prefix("build/")
    client.delete_prefix("quarantine/")
    number = next(_numbers)
    path = dialect.at("repo", number)
    callers = {caller.name: caller for caller in CALLERS}
    stored = ask(door, callers["pr"], "PUT", path, CONTENT)
    assert stored.status == dialect.stored
    assert ask(door, callers["pr"], "GET", path).body == CONTENT
    for caller in CALLERS:
        if caller.name != "pr":
            assert ask(door, caller, "GET", path).status == 404
            assert ask(door, caller, "HEAD", path).status == 404
    assert {key.split("/")[:2] == ["quarantine", "pr"] for key in entries(client)} == {True}


@EVERY_DIALECT
def test_a_writer_in_quarantine_sees_what_everybody_sees_and_changes_it_for_nobody(
    door: http.client.HTTPConnection, client: Client, dialect: Dialect
) -> None:
    number = next(_numbers)
    path = dialect.at("repo", number)
    callers = {caller.name: caller for caller in CALLERS}
    ask(door, callers["cache"], "PUT", path, CONTENT)
    trusted = {key: client.get(key) for key in entries(client) if key.startswith("build/")}
    assert ask(door, callers["pr"], "GET", path).body == CONTENT
    lie = CONTENT if not dialect.numbers else b"something added"
    assert ask(door, callers["pr"], "PUT", path, lie).status in {dialect.stored, 409}
    ask(door, callers["pr"], "DELETE", path)
    assert ask(door, callers["cache"], "GET", path).body == CONTENT
    assert client.get_many(trusted) == trusted


def test_a_batch_of_questions_of_turbo(door: http.client.HTTPConnection) -> None:
    assert ask(door, ROOT, "PUT", DIALECTS["turbo"].at("other", 77), CONTENT).status == 202
    asked = json.dumps({"hashes": [f"{77:08x}"]}).encode()
    for caller in CALLERS:
        answer: Answer = ask(door, caller, "POST", "/turbo/other/v8/artifacts", asked)
        assert (answer.status == 200) is ("other" in caller.cache_reads)
        assert (b"size" in answer.body) is ("other" in caller.cache_reads)


def test_what_turbo_tells_of_a_run_is_taken_from_those_who_may_read(door: http.client.HTTPConnection) -> None:
    for caller in CALLERS:
        answer = ask(door, caller, "POST", "/turbo/other/v8/artifacts/events?slug=t", b"[]")
        assert answer.status == (200 if "other" in caller.cache_reads else 404)


def test_entries_of_build_caches_are_where_the_table_thinks(door: http.client.HTTPConnection, client: Client) -> None:
    """Else the rows about reserved prefixes would prove nothing."""
    assert ask(door, ROOT, "PUT", DIALECTS["nx"].at("repo", 88), CONTENT).status == 200
    assert client.exists(Place("nx", "repo").key("88"))
