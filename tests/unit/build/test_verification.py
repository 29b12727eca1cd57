from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.origins import file_body, memfd_body, pattern
from tiered_store.aio.offload import Offload
from tiered_store.build import verification
from tiered_store.build.verification import Verification
from tiered_store.key import artifact_key
from tiered_store.objects import Body, Entry, ObjectInfo, body_size

DATA = pattern(300_000)


@pytest.fixture
async def offload() -> AsyncIterator[Offload]:
    pool = Offload(2, "test")
    yield pool
    await pool.close()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Body]]:
    """What was hashed."""
    bodies: list[Body] = []
    real = verification.digest_body
    monkeypatch.setattr(verification, "digest_body", lambda body: bodies.append(body) or real(body))
    yield bodies
    bodies.clear()


def body_of(form: str, data: bytes, directory: Path) -> Body:
    if form == "bytes":
        return data
    return memfd_body(data) if form == "memory" else file_body(directory / "f", data)


def entry_of(data: bytes, body: Body) -> Entry:
    key = artifact_key(hashlib.sha256(data).hexdigest())
    return Entry(ObjectInfo(key, body_size(body), "1"), body, validated_at=0.0)


@pytest.mark.parametrize("data", [b"", b"small", DATA])
@pytest.mark.parametrize("form", ["bytes", "memory", "file"])
async def test_each_body_is_hashed_once(offload, hashed, tmp_path, data, form):
    bodies = {
        "bytes": lambda: data,
        "memory": lambda: memfd_body(data),
        "file": lambda: file_body(tmp_path / "f", data),
    }
    entry = entry_of(data, bodies[form]())
    subject = Verification(offload)
    assert await subject.holds(entry)
    assert await subject.holds(entry)
    assert len(hashed) == 1


@pytest.mark.parametrize("form", ["bytes", "memory", "file"])
async def test_other_bytes_are_told(offload, tmp_path, form):
    wrong = DATA[:-1] + b"\x00"
    body = {
        "bytes": lambda: wrong,
        "memory": lambda: memfd_body(wrong),
        "file": lambda: file_body(tmp_path / "f", wrong),
    }
    entry = entry_of(DATA, body[form]())
    subject = Verification(offload)
    assert not await subject.holds(entry)
    assert not await subject.holds(entry)


async def test_a_file_that_changes_is_hashed_again_even_if_its_time_is_set_back(offload, hashed, tmp_path):
    path = tmp_path / "f"
    entry = entry_of(DATA, file_body(path, DATA))
    subject = Verification(offload)
    assert await subject.holds(entry)
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"\x00")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not await subject.holds(entry)
    assert len(hashed) == 2


async def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(offload, hashed, tmp_path, monkeypatch):
    path = tmp_path / "f"
    entry = entry_of(DATA, file_body(path, DATA))
    real = verification.digest_body

    def touched(body: Body) -> str:
        path.touch()
        return real(body)

    with monkeypatch.context() as patch:
        patch.setattr(verification, "digest_body", touched)
        subject = Verification(offload)
        assert await subject.holds(entry)
    hashed.clear()
    assert await subject.holds(entry)
    assert len(hashed) == 1


async def test_a_file_that_is_too_short_or_cannot_be_read_does_not_hold(offload, tmp_path):
    path = tmp_path / "f"
    entry = entry_of(DATA, file_body(path, DATA))
    path.write_bytes(DATA[:-1])
    assert not await Verification(offload).holds(entry)
    assert not isinstance(entry.body, bytes)
    entry.body.descriptor.close()
    assert not await Verification(offload).holds(entry)


async def test_readers_at_the_same_time_share_a_hashing(offload, hashed, tmp_path):
    entry = entry_of(DATA, file_body(tmp_path / "f", DATA))
    subject = Verification(offload)
    assert all(await asyncio.gather(*(subject.holds(entry) for _ in range(5))))
    assert len(hashed) == 1


async def test_what_is_remembered_of_files_is_bounded(offload, hashed, tmp_path):
    subject = Verification(offload, max_files=2)
    entries = [entry_of(DATA, file_body(tmp_path / f"{number}", DATA)) for number in range(3)]
    for entry in entries:
        assert await subject.holds(entry)
    for entry in reversed(entries):
        assert await subject.holds(entry)
    assert len(hashed) == 4  # the first of them was forgotten
