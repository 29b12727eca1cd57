from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.origins import open_descriptors
from tiered_store.errors import DaemonUnavailable, StoreError
from tiered_store.key import parse_key
from tiered_store.origins.base import PutHeaders
from tiered_store.store.spool import Staged
from tiered_store.wiring.descriptors import divide_descriptors
from tiered_store.wiring.opening import open_store


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


async def test_an_origin_that_cannot_be_used_leaves_nothing_open(configured, tmp_path: Path) -> None:
    config = configured()
    (tmp_path / "d").write_text("in the way")
    before = open_descriptors()
    with pytest.raises(StoreError):
        await open_store(config, divide_descriptors(1024, config))
    assert open_descriptors() == before


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
