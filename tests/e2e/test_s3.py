"""A daemon in front of a bucket, on a real S3 server: what is put is there, and what is wrong is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.clients import some_bytes
from tests.support.daemon import RunningDaemon
from tests.support.processes import MIB, descriptors, until
from tests.support.s3 import KEY_ID, PROGRAMS, SECRET, S3Server, s3_server, shared_server
from tests.support.servers import kept_port
from tiered_store import Client, KeyConflict, NotFound, OriginUnavailable, PermissionDenied
from tiered_store.objects import INLINE_MAX_BYTES

SMALL, LARGE = 1000, 3 * MIB
SIZES = pytest.mark.parametrize("size", [0, SMALL, LARGE])
#: Part of each credential here, so that one that got out shows.
TOKEN = "ToKeN"
#: Nobody is asked for the role of this machine: without an answer that takes seconds.
NO_ROLE = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(program: str) -> S3Server:
    return shared_server(program)


@pytest.fixture
def free_port() -> Iterator[int]:
    with kept_port() as port:
        yield port


def config_of(url: str, bucket: str, **settings: object) -> dict[str, Any]:
    said = {"bucket": bucket, "endpoint_url": url, "region": "us-east-1"}
    said |= {"access_key_id": KEY_ID, "secret_access_key": SECRET}
    return {"origin": {"backend": "s3"}, "s3": {**said, **settings}}


def started_line(daemon: RunningDaemon) -> dict[str, Any]:
    return next(line for line in daemon.log() if line["event"] == "started")


def in_bucket(server: S3Server, bucket: str) -> set[str]:
    return {found["Key"] for found in server.client.list_objects_v2(Bucket=bucket).get("Contents", [])}


@SIZES
def test_what_was_put_is_in_the_bucket(
    daemon_factory: Callable[..., RunningDaemon], server: S3Server, size: int
) -> None:
    bucket, data = server.settings().bucket, some_bytes(size)
    daemon = daemon_factory(config_of(server.url, bucket, prefix="team/cache"))
    assert started_line(daemon)["origin"] == f"bucket {bucket} at {server.url} (team/cache/)"
    with daemon.client() as store:
        info = store.put("a/b", data, content_type="text/x", metadata={"user": "7"})
        key = store.put_artifact(data)
        assert store.put_artifact(data) == key
        digest = key.removeprefix("sha256:")
        assert in_bucket(server, bucket) == {
            "team/cache/a/b",
            f"team/cache/artifacts/sha256/{digest[:2]}/{digest}",
        }
        assert server.client.get_object(Bucket=bucket, Key="team/cache/a/b")["Body"].read() == data
        assert store.stat("a/b") == info
        assert (info.content_type, info.metadata) == ("text/x", {"user": "7"})
        assert store.get("a/b") == store.get(key) == data
        with store.get_view("a/b") as view:
            assert view == data
        assert store.copy("a/b", "a/c").size == size
        assert store.get("a/c") == data
        assert [item.key for item in store.list("a/")] == ["a/b", "a/c"]
        assert store.delete("a/b") is True
        assert store.delete("a/b") is False
        with pytest.raises(NotFound):
            store.get("a/b")
        assert store.delete_prefix("a/") == 1
        assert list(store.list("a/")) == []
        assert store.get(key) == data
    assert daemon.stop() == 0
    assert not [line for line in daemon.log() if line["level"] in {"warning", "error"}]


def test_a_restart_with_empty_caches_reads_everything_back(
    daemon_factory: Callable[..., RunningDaemon], server: S3Server
) -> None:
    bucket = server.settings().bucket
    bodies = {f"a/{size}": some_bytes(size) for size in (0, 1, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, LARGE)}
    daemon = daemon_factory(config_of(server.url, bucket))
    with daemon.client() as store:
        infos = {key: store.put(key, data, metadata={"key": key}) for key, data in bodies.items()}
        artifacts = {store.put_artifact(data): data for data in bodies.values()}
    daemon.kill9()
    shutil.rmtree(daemon.data_dir)
    daemon = daemon_factory(config_of(server.url, bucket), directory=daemon.data_dir.parent)
    with daemon.client() as store:
        for key, data in (bodies | artifacts).items():
            assert store.get(key) == data
        assert {key: store.stat(key) for key in bodies} == infos
        stats = store.stats()
        assert (stats["origin"]["hits"], stats["disk"]["hits"]) == (len(bodies) + len(artifacts), 0)
        assert {info.key for info in store.list()} == {*bodies, *artifacts}


def test_an_object_of_several_parts(daemon_factory: Callable[..., RunningDaemon], server: S3Server) -> None:
    bucket, data = server.settings().bucket, some_bytes(16 * MIB)
    config = config_of(server.url, bucket, part_bytes="5MiB", parts_at_once=2)
    daemon = daemon_factory(config)
    with daemon.client() as store:
        info = store.put("cache/x", data)
        key = store.put_artifact(data)
    head = server.client.head_object(Bucket=bucket, Key="cache/x")
    assert (head["ContentLength"], info.size) == (len(data), len(data))
    assert server.client.get_object(Bucket=bucket, Key="cache/x")["Body"].read() == data
    assert daemon.stop() == 0
    shutil.rmtree(daemon.data_dir)
    daemon = daemon_factory(config, directory=daemon.data_dir.parent)
    with daemon.client() as store:
        assert store.get("cache/x") == store.get(key) == data
        assert store.get("cache/x", offset=5 * MIB - 1, length=2) == data[5 * MIB - 1 : 5 * MIB + 1]


def test_the_environment_is_enough(daemon_factory: Callable[..., RunningDaemon], server: S3Server) -> None:
    """The names that deployments have already; credentials are found by the SDK."""
    bucket = server.settings().bucket
    environment = {"STORAGE_BACKEND": "s3", "S3_BUCKET": bucket, "S3_ENDPOINT": server.url, "S3_REGION": "us-east-1"}
    environment |= {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
    daemon = daemon_factory(env=environment)
    settings = started_line(daemon)["settings"]
    assert settings["origin.backend"] == "STORAGE_BACKEND"
    assert {name for name in settings if name.startswith("s3.")} == {"s3.bucket", "s3.endpoint_url", "s3.region"}
    with daemon.client() as store:
        store.put("a", b"1")
    assert in_bucket(server, bucket) == {"a"}


def test_the_region_may_be_the_sdks(daemon_factory: Callable[..., RunningDaemon], server: S3Server) -> None:
    config = config_of(server.url, server.settings().bucket, region="")
    with daemon_factory(config, env={"AWS_REGION": "eu-west-1"}).client() as store:
        store.put("a", b"1")
        assert store.exists("a")


def test_a_bucket_that_is_not_there(daemon_factory: Callable[..., RunningDaemon], server: S3Server) -> None:
    daemon = daemon_factory(config_of(server.url, "no-such-bucket"))
    with daemon.client() as store:
        for ask in (lambda: store.get("a"), lambda: store.put("a", b"1"), lambda: list(store.list())):
            with pytest.raises(
                OriginUnavailable, match=r"bucket 'no-such-bucket' does not exist.*s3\.bucket"
            ) as caught:
                ask()
            assert not caught.value.retryable


def test_wrong_credentials(daemon_factory: Callable[..., RunningDaemon], server: S3Server) -> None:
    bucket = server.settings().bucket
    for settings in ({"access_key_id": TOKEN}, {"secret_access_key": TOKEN}):
        daemon = daemon_factory(config_of(server.url, bucket, **settings))
        with daemon.client() as store:
            for ask in (lambda: store.get("a"), lambda: store.put("a", b"1")):
                with pytest.raises(PermissionDenied, match=r"s3\.access_key_id and s3\.secret_access_key") as caught:
                    ask()
                assert TOKEN not in str(caught.value)
        daemon.stop()
        assert TOKEN not in daemon.log_path.read_text()


def test_a_key_below_another(daemon_factory: Callable[..., RunningDaemon]) -> None:
    """``a`` and ``a/b`` are fine in S3 itself. A server that keeps objects as files cannot have both, and says so."""
    server = shared_server("versitygw")
    with daemon_factory(config_of(server.url, server.settings().bucket)).client() as store:
        store.put("a", b"1")
        store.put("c/d", b"2")
        for key in ("a/b", "c"):
            with pytest.raises(KeyConflict, match="path prefix"):
                store.put(key, b"3")
        assert store.get_many(["a", "a/b", "c", "c/d"]) == {"a": b"1", "c/d": b"2"}


def test_no_credentials_at_all(daemon_factory: Callable[..., RunningDaemon], server: S3Server) -> None:
    config = config_of(server.url, server.settings().bucket, access_key_id="", secret_access_key="")
    with (
        daemon_factory(config, env=NO_ROLE).client() as store,
        pytest.raises(PermissionDenied, match=r"set s3\.access_key_id and s3\.secret_access_key, or AWS_ACCESS_KEY_ID"),
    ):
        store.get("a")


def test_no_line_holds_a_credential(daemon_factory: Callable[..., RunningDaemon], server: S3Server) -> None:
    """Not even at the level "debug", at which the SDK would write down what it sends."""
    token = f"{TOKEN}-1" if server.program == "rclone" else ""  # which takes any
    config = config_of(server.url, server.settings().bucket, session_token=token)
    daemon = daemon_factory(config | {"log": {"level": "debug"}})
    with daemon.client() as store:
        store.put("a", b"1")
        store.put("b", some_bytes(9 * MIB))
        assert store.get("a") == b"1"
        with pytest.raises(NotFound):
            store.get("nothing")
    assert daemon.stop() == 0
    text = daemon.log_path.read_text()
    assert SECRET not in text
    assert TOKEN not in text


def test_a_server_that_comes_later(daemon_factory: Callable[..., RunningDaemon], free_port: int, program: str) -> None:
    """The daemon starts without it, says so to whoever asks, and needs no restart once it is there."""
    daemon = daemon_factory(config_of(f"http://127.0.0.1:{free_port}", "builds"))
    with daemon.client() as store:
        for ask in (lambda: store.get("a"), lambda: store.put("a", b"1"), lambda: list(store.list())):
            with pytest.raises(OriginUnavailable, match=rf"no connection to the origin at .*:{free_port}") as caught:
                ask()
            assert caught.value.retryable
        with s3_server(free_port, program) as server:
            server.client.create_bucket(Bucket="builds")
            server.client.put_object(Bucket="builds", Key="a", Body=b"1")
            until(lambda: is_answered(store, "a"), "an answer; the breaker may be open", limit_s=40.0)
            assert store.get("a") == b"1"
            store.put("b", b"2")
        assert store.get("b") == b"2"  # from memory
        with pytest.raises(OriginUnavailable):
            store.put("b", b"3")
    assert "the origin fails" in daemon.events()
    assert "the origin answers again" in daemon.events()
    assert daemon.stop() == 0


def is_answered(store: Client, key: str) -> bool:
    try:
        return bool(store.get(key))
    except OriginUnavailable:
        return False


def test_connections_are_kept_and_closed(daemon_factory: Callable[..., RunningDaemon], server: S3Server) -> None:
    """One for request after request; no more than configured however many ask; none is left of reads that ended."""
    daemon = daemon_factory(config_of(server.url, server.settings().bucket, max_connections=4))
    with daemon.client() as store:
        store.put("first", b"1")
        before = len(descriptors(daemon.process.pid))
        for number in range(30):
            store.put(f"n/{number}", some_bytes(100, number))
        store.put_many({f"m/{number}": some_bytes(100, number) for number in range(64)})
        assert len(descriptors(daemon.process.pid)) <= before + 3
        assert len(list(store.list())) == 95
    assert daemon.stop() == 0
    assert [line["clean"] for line in daemon.log() if line["event"] == "stopped"] == [True]
