"""The bytes of files for replies."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tiered_store.errors import OriginUnavailable
from tiered_store.objects import Descriptor, FileBody
from tiered_store.servers.http import files as module
from tiered_store.servers.http.files import Files

DATA = os.urandom(1_000_000)


@pytest.fixture
async def files() -> AsyncIterator[Files]:
    found = Files()
    yield found
    await found.close()


def on_disk(path: Path) -> FileBody:
    path.write_bytes(b"-" * 4096 + DATA)
    return FileBody(Descriptor(os.open(path, os.O_RDONLY)), 4096, len(DATA), is_memory=False)


def in_memory() -> FileBody:
    descriptor = os.memfd_create("test")
    os.write(descriptor, DATA)
    return FileBody(Descriptor(descriptor), 0, len(DATA), is_memory=True)


async def collect(files: Files, body: FileBody, offset: int, end: int) -> bytes:
    return b"".join([bytes(piece) async for piece in files.pieces(body, offset, end)])


@pytest.mark.parametrize("span", [(0, len(DATA)), (0, 0), (5, 6), (262_143, 262_145), (999_999, 1_000_000)])
async def test_pieces(files: Files, tmp_path: Path, span: tuple[int, int]) -> None:
    for body in (on_disk(tmp_path / "f"), in_memory()):
        assert await collect(files, body, *span) == DATA[slice(*span)]


async def test_what_the_file_system_does_not_say_is_read_in_threads(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> int:
        raise OSError(95, "Operation not supported")

    def absent(*_: object) -> int:
        raise BlockingIOError

    for answer in (unsupported, absent, lambda *_: 1):
        monkeypatch.setattr(module.os, "preadv", answer)
        assert await collect(files, on_disk(tmp_path / "f"), 0, len(DATA)) == DATA


async def test_a_file_that_was_cut_short_is_an_error_and_no_signal(files: Files, tmp_path: Path) -> None:
    body = on_disk(tmp_path / "f")
    os.truncate(tmp_path / "f", 300_000)
    pieces = files.pieces(body, 0, len(DATA))
    assert bytes(await anext(pieces)) == DATA[: module.PIECE_BYTES]
    with pytest.raises(OriginUnavailable):
        await anext(pieces)


async def test_a_file_that_cannot_be_read(files: Files, tmp_path: Path) -> None:
    body = FileBody(Descriptor(os.open(tmp_path / "f", os.O_WRONLY | os.O_CREAT)), 0, 10, is_memory=False)
    with pytest.raises(OriginUnavailable):
        await collect(files, body, 0, 10)


async def test_a_map_lives_as_long_as_its_file(files: Files) -> None:
    body = in_memory()
    first, second = [await files.read(body, 0, 10) for _ in range(2)]
    assert isinstance(first, memoryview)
    assert first.obj is second.obj  # type: ignore[union-attr]
    assert len(files._maps) == 1
    del body
    await asyncio.sleep(0)
    assert len(files._maps) == 0
    assert bytes(first) == DATA[:10]  # what is being sent stays
