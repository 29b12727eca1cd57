from __future__ import annotations

import logging
import os
import resource
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from tiered_store import wiring
from tiered_store.config.load import Flags, load
from tiered_store.config.model import Config
from tiered_store.errors import DaemonUnavailable, NotFound, OriginUnavailable, StoreError
from tiered_store.key import parse_key
from tiered_store.origins.base import PutHeaders
from tiered_store.origins.s3settings import S3Settings
from tiered_store.store.spool import Staged
from tiered_store.tiers.cdnsettings import CdnSettings
from tiered_store.wiring import (
    CannotStart,
    cdn_settings,
    divide_descriptors,
    native_limits,
    open_store,
    raise_descriptor_limit,
    s3_settings,
    store_limits,
)


@pytest.fixture
def configured(tmp_path: Path):
    def make(text: str = "") -> Config:
        (tmp_path / "c.toml").write_text(text)
        environment: Mapping[str, str] = {"XDG_RUNTIME_DIR": str(tmp_path)}
        return load(tmp_path / "c.toml", flags=Flags(data_dir=tmp_path / "d"), environment=environment).config

    return make


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_generous_limit(configured) -> None:
    plan = divide_descriptors(65_536, configured())
    assert (plan.limit, plan.connections) == (65_536, 1024)
    assert plan.memory == 64_000_000 // 65_536
    assert plan.disk == 8192


def test_a_modest_limit_is_shared(configured) -> None:
    plan = divide_descriptors(4096, configured("[memory]\nmax_bytes = '512MiB'"))
    rest = 4096 - 256 - 2 * 960
    assert (plan.connections, plan.memory, plan.disk) == (960, rest // 2, rest - rest // 2)


def test_without_a_disk_tier_memory_gets_its_share(configured) -> None:
    plan = divide_descriptors(1024, configured("[disk]\nenabled = false"))
    assert (plan.connections, plan.memory, plan.disk) == (192, 384, 0)


def test_an_origin_in_memory_needs_descriptors_too(configured) -> None:
    plan = divide_descriptors(1024, configured("[origin]\nbackend = 'memory'"))
    assert (plan.connections, plan.memory, plan.disk) == (192, 96, 96)


@pytest.mark.parametrize("limit", [320, 400, 1024, 4096, 20_000, 2**20])
@pytest.mark.parametrize("connections", [1, 100, 100_000])
def test_no_more_is_given_than_there_is(configured, limit: int, connections: int) -> None:
    plan = divide_descriptors(limit, configured(f"[server]\nmax_connections = {connections}"))
    assert 256 + 2 * plan.connections + plan.memory + plan.disk <= limit
    assert min(plan.connections, plan.memory, plan.disk) >= 1
    assert plan.connections <= connections


def test_too_small_a_limit(configured) -> None:
    with pytest.raises(CannotStart, match="only 319 files; allow at least 320"):
        divide_descriptors(319, configured())


def test_the_limit_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [100, 5000]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.__setitem__(slice(None), list(wanted)))
    assert raise_descriptor_limit() == 5000
    assert limits == [5000, 5000]


def test_a_limit_that_the_kernel_refuses_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_descriptor_limit() == 100


def test_no_limit_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (unlimited, unlimited))
    assert raise_descriptor_limit() == 2**20


def test_the_doors_limits(configured) -> None:
    config = configured("[server]\nmax_in_flight = 7\nstall_timeout_s = 3\n[log]\nslow_request_s = 0.5")
    limits = native_limits(config, divide_descriptors(400, config))
    assert (limits.max_connections, limits.max_in_flight) == (36, 7)
    assert (limits.stall_timeout_s, limits.slow_request_s) == (3, 0.5)


def test_the_bounds_of_uploads(configured) -> None:
    limits = store_limits(configured("[fills]\nmax_uploads = 3\nupload_buffer_bytes = '5MiB'"))
    assert (limits.max_uploads, limits.upload_buffer_bytes) == (3, 5 * 2**20)


async def test_no_more_uploads_than_configured(configured) -> None:
    config = configured("[fills]\nmax_uploads = 1")
    opened = await open_store(config, divide_descriptors(1024, config))
    try:
        upload = opened.store.spool(None, hashed=False)
        with pytest.raises(DaemonUnavailable, match="1 uploads are under way"):
            opened.store.spool(None, hashed=False)
        await upload.abort()
        await opened.store.spool(None, hashed=False).abort()
    finally:
        await opened.close()


@pytest.mark.parametrize("text", ["", "[disk]\nenabled = false", "[origin]\nbackend = 'memory'\nquota_bytes = '1MiB'"])
async def test_a_store_that_works_and_closes_everything(configured, text: str) -> None:
    before = open_descriptors()
    config = configured(text)
    opened = await open_store(config, divide_descriptors(1024, config))
    try:
        key = parse_key("a/b")
        await opened.store.put(key, Staged.of_bytes(b"abc", hashed=False), PutHeaders())
        assert (await opened.store.get(key)).body == b"abc"
    finally:
        await opened.close()
    assert open_descriptors() == before


async def test_policies_reach_the_store(configured) -> None:
    config = configured("[[policies]]\nprefix = 'a/'\nttl_s = 7\n[[policies]]\nprefix = 'b/'\nimmutable = true")
    policies = wiring._policies(config)
    assert policies.of("a/x").ttl_s == 7
    assert policies.of("b/x").immutable
    assert policies.of("cache/x").immutable


async def test_an_origin_that_cannot_be_used_leaves_nothing_open(configured, tmp_path: Path) -> None:
    config = configured()
    (tmp_path / "d").write_text("in the way")
    before = open_descriptors()
    with pytest.raises(StoreError):
        await open_store(config, divide_descriptors(1024, config))
    assert open_descriptors() == before


async def changed(config: Config, body: bytes | None) -> bytes:
    """What a run with this configuration answers, after it has put a body if there is one."""
    key = parse_key("cache/x")
    opened = await open_store(config, divide_descriptors(1024, config))
    try:
        if body is not None:
            await opened.store.put(key, Staged.of_bytes(body, hashed=False), PutHeaders())
        found = (await opened.store.get(key)).body
        assert isinstance(found, bytes)
        return found
    finally:
        await opened.close()


async def test_what_a_run_without_the_disk_tier_replaces_stays_replaced(
    configured, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    without = "[disk]\nenabled = false"
    assert await changed(configured(), b"old") == b"old"
    assert await changed(configured(without), b"new") == b"new"
    assert await changed(configured(), None) == b"new"
    assert await changed(configured(without), None) == b"new"
    assert await changed(configured(without), None) == b"new"
    said = [record.getMessage() for record in caplog.records]
    assert said == ["the unused cache directory was marked as out of date"] * 2


async def test_an_unused_cache_directory_that_cannot_be_changed_is_a_line(
    configured, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path / "clean"))

    monkeypatch.setattr(wiring, "forget_marks", refuse)
    assert await changed(configured("[disk]\nenabled = false"), b"x") == b"x"
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert "Permission denied" in vars(line)["reason"]


async def test_an_unused_cache_directory_on_a_disk_that_hangs_is_a_line(
    configured, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(wiring, "forget_marks", lambda path: release.wait())
    monkeypatch.setattr(wiring, "_LEAVE_TIMEOUT_S", 0.0)
    config = configured("[disk]\nenabled = false")
    opened = await open_store(config, divide_descriptors(1024, config))
    release.set()
    await opened.close()
    (line,) = caplog.records
    assert vars(line)["reason"] == "no answer"


async def test_damage_on_disk_is_counted(configured, tmp_path: Path) -> None:
    config = configured()
    key, body = parse_key("a/b"), os.urandom(200_000)
    opened = await open_store(config, divide_descriptors(1024, config))
    await opened.store.put(key, Staged.of_bytes(b"", hashed=False), PutHeaders())
    spool = opened.store.spool(len(body), hashed=False)
    await spool.write(body)
    await opened.store.put(key, await spool.finish(), PutHeaders())
    await opened.close()
    damaged = 0
    for file in (tmp_path / "d/cache").rglob("*"):
        if file.is_file() and file.stat().st_size >= len(body):
            with file.open("r+b") as stream:
                stream.seek(-1, os.SEEK_END)
                last = stream.read(1)
                stream.seek(-1, os.SEEK_END)
                stream.write(bytes([last[0] ^ 1]))
            damaged += 1
    assert damaged == 1
    opened = await open_store(config, divide_descriptors(1024, config))
    try:
        entry = await opened.store.get(key)
        assert entry.info.size == len(body)
        assert opened.store.stats()["corrupt"] == 1
    finally:
        await opened.close()


S3 = "[origin]\nbackend = 's3'\n[s3]\nbucket = 'builds'\nprovider = 'aws'\n"


def test_connections_to_a_bucket_are_descriptors_too(configured) -> None:
    plan = divide_descriptors(1024, configured(f"{S3}max_connections = 100"))
    rest = 1024 - 256 - 100 - 2 * 167
    assert (plan.connections, plan.memory, plan.disk) == (167, rest // 2, rest - rest // 2)
    with pytest.raises(CannotStart, match="only 419 files; allow at least 420"):
        divide_descriptors(419, configured(f"{S3}max_connections = 100"))


def test_what_a_bucket_of_defaults_is_told(configured) -> None:
    """The origin's own defaults are the configuration's, so that tests of the one hold for the other."""
    assert s3_settings(configured(S3).s3) == S3Settings("builds")


def test_what_a_bucket_is_told(configured) -> None:
    text = """
    provider = "cloudflare"
    account = "0ab"
    prefix = "/team/cache"
    access_key_id = "id"
    secret_access_key = "secret"
    session_token = "token"
    sse = "aws:kms"
    sse_kms_key_id = "key"
    storage_classes = { "a/" = "STANDARD_IA" }
    max_connections = 7
    connect_timeout_s = 1
    read_timeout_s = 2.5
    part_bytes = "6MiB"
    parts_at_once = 3
    """
    assert s3_settings(configured(f"[origin]\nbackend = 's3'\n[s3]\nbucket = 'builds'\n{text}").s3) == S3Settings(
        bucket="builds",
        prefix="team/cache/",
        endpoint_url="https://0ab.r2.cloudflarestorage.com",
        region="auto",
        path_style=True,
        access_key_id="id",
        secret_access_key="secret",
        session_token="token",
        sse="aws:kms",
        sse_kms_key_id="key",
        storage_classes={"a/": "STANDARD_IA"},
        max_connections=7,
        connect_timeout_s=1.0,
        read_timeout_s=2.5,
        part_bytes=6 * 2**20,
        parts_at_once=3,
    )


async def test_a_server_that_is_down_keeps_nothing_from_starting(configured) -> None:
    with socket.socket() as closed:  # bound and not listening: nobody else gets the port, and it refuses
        closed.bind(("127.0.0.1", 0))
        where = f"endpoint_url = 'http://127.0.0.1:{closed.getsockname()[1]}'"
        text = f"{S3}{where}\naccess_key_id = 'id'\nsecret_access_key = 'secret'"
        before = open_descriptors()
        config = configured(text)
        opened = await open_store(config, divide_descriptors(1024, config))
        try:
            with pytest.raises(OriginUnavailable, match="no connection to the origin at"):
                await opened.store.get(parse_key("a/b"))
        finally:
            await opened.close()
        assert open_descriptors() == before


async def test_a_profile_that_is_not_there_is_said_at_the_start(configured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    before = open_descriptors()
    config = configured(S3)
    with pytest.raises(OriginUnavailable, match="no-such-profile"):
        await open_store(config, divide_descriptors(1024, config))
    assert open_descriptors() == before


CDN = "[cdn]\nbase_url = 'http://127.0.0.1:9/x'\n"


def test_connections_to_a_cdn_are_descriptors_too(configured) -> None:
    with pytest.raises(CannotStart, match="only 419 files; allow at least 420"):
        divide_descriptors(419, configured(f"{CDN}max_connections = 100"))


def test_what_a_cdn_is_told(configured) -> None:
    """The tier's own defaults are the configuration's, so that tests of the one hold for the other."""
    assert cdn_settings(configured(CDN).cdn) == CdnSettings("http://127.0.0.1:9/x")
    text = f"""{CDN}
    purge_url = "https://c/purge"
    timeout_ms = 250
    headers = {{ "X-Token" = "t" }}
    max_connections = 9
    part_bytes = "2MiB"
    parts_at_once = 3
    """
    settings = cdn_settings(configured(text).cdn)
    assert settings == CdnSettings(
        base_url="http://127.0.0.1:9/x",
        purge_url="https://c/purge",
        timeout_s=0.25,
        headers={"X-Token": "t"},
        max_connections=9,
        part_bytes=2 * 2**20,
        parts_at_once=3,
    )
    assert "'t'" not in repr(settings)


@pytest.mark.parametrize("purge", ["", "http"])
async def test_a_cdn_that_is_down_keeps_nothing_from_starting_and_fails_no_write(configured, purge: str) -> None:
    before = open_descriptors()
    config = configured(f"{CDN}purge = '{purge}'\ntimeout_ms = 1000")
    opened = await open_store(config, divide_descriptors(1024, config))
    try:
        await opened.store.put(parse_key("cache/a"), Staged(b"x", 1), PutHeaders())
        with pytest.raises(NotFound):
            await opened.store.get(parse_key("cache/b"))
        stats = opened.store.stats()["cdn"]
        assert isinstance(stats, dict)
        assert (stats["errors"], stats["purge_errors"]) == (1, 1 if purge else 0)
    finally:
        await opened.close()
    assert open_descriptors() == before


WRITE_BACK = "[[policies]]\nprefix = 'back/'\nwrite_back = true\n"


async def test_a_journal_is_there_for_those_who_ask_for_it(configured, tmp_path: Path) -> None:
    before = open_descriptors()
    for text, is_there in (("", False), (WRITE_BACK, True), ("", True)):
        config = configured(text)
        opened = await open_store(config, divide_descriptors(1024, config))
        try:
            assert (tmp_path / "d/journal").exists() == is_there
            stats = opened.store.stats()["write_back"]
            assert stats["max_bytes"] == (2**30 if text else 0)  # type: ignore[index]
        finally:
            await opened.close()
    assert open_descriptors() == before


async def test_without_its_journal_a_daemon_does_not_start(configured, tmp_path: Path) -> None:
    """Acknowledged puts would read as their older versions."""
    config = configured(WRITE_BACK)
    (tmp_path / "d/journal/lock").mkdir(parents=True)
    (tmp_path / "d/journal").chmod(0o700)
    before = open_descriptors()
    with pytest.raises(OriginUnavailable, match=r"the journal cannot be used \(write_back.path\)"):
        await open_store(config, divide_descriptors(1024, config))
    assert open_descriptors() == before


def test_uploads_from_a_journal_have_descriptors_kept_back(configured) -> None:
    text = WRITE_BACK.replace("[[", "[write_back]\nuploads_at_once = 100\n[[")
    with_journal, without = (divide_descriptors(2048, configured(each)) for each in (text, ""))
    assert without.connections - with_journal.connections == 200 // 4
