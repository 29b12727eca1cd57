"""The parts, each seen through the store that it becomes part of."""

from __future__ import annotations

import logging
import socket
import threading
from pathlib import Path

import pytest

from tests.support.origins import open_descriptors
from tests.unit.wiring.conftest import CDN, S3, WRITE_BACK
from tiered_store.config.model import Config
from tiered_store.errors import NotFound, OriginUnavailable
from tiered_store.key import parse_key
from tiered_store.origins.base import PutHeaders
from tiered_store.store.spool import Staged
from tiered_store.wiring import parts
from tiered_store.wiring.descriptors import divide_descriptors
from tiered_store.wiring.opening import open_store


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

    monkeypatch.setattr(parts, "forget_marks", refuse)
    assert await changed(configured("[disk]\nenabled = false"), b"x") == b"x"
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert "Permission denied" in vars(line)["reason"]


async def test_an_unused_cache_directory_on_a_disk_that_hangs_is_a_line(
    configured, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(parts, "forget_marks", lambda path: release.wait())
    monkeypatch.setattr(parts, "_LEAVE_TIMEOUT_S", 0.0)
    config = configured("[disk]\nenabled = false")
    opened = await open_store(config, divide_descriptors(1024, config))
    release.set()
    await opened.close()
    (line,) = caplog.records
    assert vars(line)["reason"] == "no answer"


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


@pytest.mark.parametrize("is_usable", [True, False])
async def test_the_build_cache_uses_a_journal_where_it_can(configured, tmp_path: Path, is_usable: bool) -> None:
    config = configured(f"{S3}access_key_id = 'i'\nsecret_access_key = 's'\nregion = 'eu-central-1'")
    if not is_usable:
        (tmp_path / "d/journal/lock").mkdir(parents=True)
        (tmp_path / "d/journal").chmod(0o700)
    before = open_descriptors()
    opened = await open_store(config, divide_descriptors(1024, config))
    try:
        stats = opened.store.stats()["write_back"]
        assert stats["max_bytes"] == (2**30 if is_usable else 0)  # type: ignore[index]
        assert opened.build is not None
    finally:
        await opened.close()
    assert open_descriptors() == before


async def test_there_is_no_build_cache_where_it_is_off(configured) -> None:
    config = configured("[build]\nenabled = false")
    opened = await open_store(config, divide_descriptors(1024, config))
    assert opened.build is None
    await opened.close()
