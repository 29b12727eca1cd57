"""A daemon whose S3 server goes away and comes back: what it serves meanwhile, and that it needs no restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.test_s3 import config_of
from tests.support.clients import some_bytes
from tests.support.daemon import RunningDaemon
from tests.support.processes import MIB, until
from tests.support.s3 import S3Server, s3_server
from tiered_store import Client, NotFound, OriginUnavailable, StoreError

BUCKET = "builds"
POLICIES = {"policies": [{"prefix": "s/", "ttl_s": 0, "stale_if_error_s": 3600}]}
LARGE = some_bytes(3 * MIB)


def with_bucket(server: S3Server, **objects: bytes) -> None:
    """Its buckets are in its memory: a server that comes back has none."""
    server.client.create_bucket(Bucket=BUCKET)
    for key, data in objects.items():
        server.client.put_object(Bucket=BUCKET, Key=key, Body=data)


def refusal(store: Client, ask: Callable[[], object]) -> OriginUnavailable:
    """What a request is told once the breaker is open; while it is half open, one is told what it met."""
    found: list[OriginUnavailable] = []

    def is_refused() -> bool:
        with pytest.raises(OriginUnavailable) as caught:
            ask()
        found.append(caught.value)
        return "the origin is left alone" in str(caught.value)

    until(is_refused, "a refusal", limit_s=40.0)
    return found[-1]


def test_an_outage(daemon_factory: Callable[..., RunningDaemon]) -> None:
    with s3_server() as server:
        port = server.port
        with_bucket(server)
        daemon = daemon_factory(config_of(server.url, BUCKET) | POLICIES)
        store = daemon.client()
        store.put("cache/x", LARGE)
        store.put("s/y", b"old")
        key = store.put_artifact(LARGE)
    assert store.get("s/y") == b"old"  # stale: it is asked for every time
    for _ in range(20):
        assert store.get("cache/x") == store.get(key) == LARGE
        assert store.get("s/y") == b"old"
    asks: dict[str, Callable[[], object]] = {
        "get": lambda: store.get("other"),
        "stat": lambda: store.stat("other"),
        "put": lambda: store.put("other", b"1"),
        "delete": lambda: store.delete("other"),
        "list": lambda: list(store.list()),
        "copy": lambda: store.copy("cache/x", "other"),
    }
    for ask in asks.values():
        error = refusal(store, ask)
        assert error.retryable
        assert f"no connection to the origin at http://127.0.0.1:{port}" in str(error)
    stats = store.stats()
    assert stats["origin"]["breaker_open"] is True
    assert stats["origin"]["breaker_opened"] == 1
    assert stats["origin"]["breaker_refused"] >= 6
    assert 0 < stats["origin"]["retries"] <= 10 + 6
    assert stats["stale_served"] >= 20
    with s3_server(port) as server:
        with_bucket(server, other=b"2")
        until(lambda: answered(store, "other") == b"2", "an answer", limit_s=40.0)
        assert store.stats()["origin"]["breaker_open"] is False
        store.put("other", b"3")
        assert server.client.get_object(Bucket=BUCKET, Key="other")["Body"].read() == b"3"
        with pytest.raises(NotFound):
            store.get("s/y")  # the origin answers again, and says so
    events = daemon.events()
    assert events.count("the origin is left alone for a while") == 1
    assert events.count("the origin is asked as usual again") == 1
    assert daemon.stop() == 0


def answered(store: Client, key: str) -> bytes | None:
    try:
        return store.get(key)
    except StoreError:
        return None


def test_a_start_without_the_origin(daemon_factory: Callable[..., RunningDaemon]) -> None:
    """The daemon starts, says so, and serves what its disk tier has; nothing else is new to it."""
    with s3_server() as server:
        port = server.port
        with_bucket(server)
        config: dict[str, Any] = config_of(server.url, BUCKET)
        first = daemon_factory(config)
        with first.client() as store:
            store.put("cache/x", LARGE)
            store.put("cache/small", b"small")
            key = store.put_artifact(LARGE)
        assert first.stop() == 0
        assert "the origin does not answer; what is cached is served" not in first.events()
    daemon = daemon_factory(config, directory=first.data_dir.parent)
    store = daemon.client()
    assert store.get("cache/x") == store.get(key) == LARGE
    assert store.get("cache/small") == b"small"
    until(lambda: "the origin does not answer; what is cached is served" in daemon.events(), "the line")
    line = next(line for line in daemon.log() if line["event"].startswith("the origin does not answer"))
    assert line["level"] == "warning"
    assert f"no connection to the origin at http://127.0.0.1:{port}" in line["error"]
    with pytest.raises(OriginUnavailable):
        store.get("other")
    with s3_server(port) as server:
        with_bucket(server, other=b"2")
        until(lambda: answered(store, "other") == b"2", "an answer", limit_s=40.0)
    assert daemon.stop() == 0


def test_late_answers_are_asked_for_twice(daemon_factory: Callable[..., RunningDaemon]) -> None:
    """Whatever is late here: answers are right, and second tries few."""
    with s3_server() as server:
        with_bucket(server)
        config = config_of(server.url, BUCKET)
        config["origin"]["hedged_reads"] = True
        daemon = daemon_factory(config | {"policies": [{"prefix": "", "ttl_s": 0}]})
        with daemon.client() as store:
            store.put("a", b"1")
            for _ in range(150):
                assert store.get("a") == b"1"
                assert store.stat("a").size == 1
            origin = store.stats()["origin"]
        assert 0 <= origin["hedges_won"] <= origin["hedges"] <= 300 // 50
        assert daemon.stop() == 0
    assert not [line for line in daemon.log() if line["level"] in {"warning", "error"}]


def test_a_time_of_zero_means_no_retries(daemon_factory: Callable[..., RunningDaemon]) -> None:
    with s3_server() as server:
        with_bucket(server)
        config = config_of(server.url, BUCKET)
        config["origin"]["retry_for_s"] = 0
        daemon = daemon_factory(config)
    store = daemon.client()
    for _ in range(10):
        with pytest.raises(OriginUnavailable):
            store.get("a")
    origin = store.stats()["origin"]
    assert (origin["retries"], origin["retries_refused"]) == (0, 0)
    assert origin["errors"] == 10
