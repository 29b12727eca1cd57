from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.origins import (
    NOTHING_SAID,
    descriptors_now,
    file_body,
    list_all,
    local_origin,
    memfd_body,
    open_descriptors,
    pattern,
    read_all,
)
from tiered_store.aio.offload import Offload
from tiered_store.errors import (
    NotFound,
    OriginUnavailable,
    PermissionDenied,
    QuotaExceeded,
    StoreError,
)
from tiered_store.origins.base import CHUNK_BYTES, PutHeaders, StatsMany
from tiered_store.origins.local import LocalOrigin

SAID = PutHeaders("text/plain", {"user": "7"})


@pytest.fixture
async def offload() -> AsyncIterator[Offload]:
    offload = Offload(4, "origin")
    yield offload
    await offload.close()


@pytest.fixture
async def origin(tmp_path: Path) -> AsyncIterator[LocalOrigin]:
    async with local_origin(tmp_path) as origin:
        yield origin


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, which only root can mount."""
    target = tmp_path / "mount"
    target.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=100", "tmpfs", str(target)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a file system")
    yield target
    subprocess.run(["umount", "--lazy", str(target)], check=True)


def temporary_files(root: Path) -> list[Path]:
    return [path for path in (root / ".tiered_store/tmp").rglob("*") if not path.is_dir()]


class TestStartAndClose:
    async def test_nothing_is_touched_before_the_first_request(self, tmp_path: Path, offload: Offload) -> None:
        origin = LocalOrigin(tmp_path / "origin", offload=offload)
        assert not (tmp_path / "origin").exists()
        await origin.start()
        await origin.start()
        assert (tmp_path / "origin").is_dir()
        await origin.close()

    async def test_first_requests_at_once_open_the_root_once(self, tmp_path: Path) -> None:
        async with local_origin(tmp_path) as origin:
            await asyncio.gather(*(origin.list("") for _ in range(20)))
            root = str(tmp_path / "origin")
            opened = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
            assert [str(path) for path in opened].count(root) == 1

    async def test_a_root_that_comes_later_is_found(self, tmp_path: Path, offload: Offload) -> None:
        (tmp_path / "parent").touch()
        origin = LocalOrigin(tmp_path / "parent/origin", offload=offload)
        with pytest.raises(StoreError):
            await origin.start()
        (tmp_path / "parent").unlink()
        await origin.put("a", b"x", NOTHING_SAID)
        assert (tmp_path / "parent/origin/a").read_bytes() == b"x"
        await origin.close()

    async def test_nothing_is_answered_after_the_close(self, origin: LocalOrigin) -> None:
        await origin.put("a", b"x", NOTHING_SAID)
        await origin.close()
        await origin.close()
        with pytest.raises(OriginUnavailable, match="closed"):
            await origin.stat("a")

    async def test_closing_leaves_no_temporary_directory(self, tmp_path: Path, offload: Offload) -> None:
        origin = LocalOrigin(tmp_path, offload=offload)
        await origin.put("a", b"x", SAID)
        assert len(list((tmp_path / ".tiered_store/tmp").iterdir())) == 1
        await origin.close()
        assert list((tmp_path / ".tiered_store/tmp").iterdir()) == []

    async def test_a_locale_without_utf8(
        self, tmp_path: Path, offload: Offload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
        with pytest.raises(OriginUnavailable, match="PYTHONUTF8"):
            await LocalOrigin(tmp_path, offload=offload).start()

    async def test_a_reader_outlives_the_origin(self, origin: LocalOrigin) -> None:
        data = pattern(3 * CHUNK_BYTES)
        await origin.put("a", data, NOTHING_SAID)
        read = await origin.open("a")
        assert read is not None
        await origin.close()
        assert b"".join([chunk async for chunk in read.chunks()]) == data


class TestSweep:
    async def test_what_dead_processes_left_is_collected(
        self, tmp_path: Path, offload: Offload, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        for session in ("0123", "4567"):
            (tmp_path / ".tiered_store/tmp" / session).mkdir(parents=True)
            (tmp_path / ".tiered_store/tmp" / session / "0").touch()
        origin = LocalOrigin(tmp_path, offload=offload)
        await origin.put("a", b"x", NOTHING_SAID)
        assert origin._sweeping is not None
        await origin._sweeping
        assert temporary_files(tmp_path) == []
        assert "removed 2 files" in caplog.text
        await origin.close()

    async def test_a_sweep_that_fails_harms_nobody(
        self, tmp_path: Path, offload: Offload, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / ".tiered_store").mkdir()
        (tmp_path / ".tiered_store/tmp").touch()
        (tmp_path / "a").write_bytes(b"x")
        origin = LocalOrigin(tmp_path, offload=offload)
        assert await read_all(origin, "a") == b"x"
        assert origin._sweeping is not None
        await origin._sweeping
        assert "the sweep of" in caplog.text
        await origin.close()

    async def test_closing_stops_it(self, tmp_path: Path, offload: Offload) -> None:
        for session in range(50):
            (tmp_path / f".tiered_store/tmp/{session}").mkdir(parents=True)
        origin = LocalOrigin(tmp_path, offload=offload)
        await origin.start()
        sweeping = origin._sweeping
        await origin.close()
        assert sweeping is not None
        assert sweeping.done()
        assert len(list((tmp_path / ".tiered_store/tmp").iterdir())) > 0


class TestReading:
    async def test_a_file_cut_off_while_it_is_read(self, origin: LocalOrigin, tmp_path: Path) -> None:
        await origin.put("a", pattern(3 * CHUNK_BYTES), NOTHING_SAID)
        read = await origin.open("a")
        assert read is not None
        chunks = read.chunks()
        assert await anext(chunks) == pattern(3 * CHUNK_BYTES)[:CHUNK_BYTES]
        os.truncate(tmp_path / "origin/a", CHUNK_BYTES + 5)
        with pytest.raises(OriginUnavailable) as caught:
            await anext(chunks)
        assert (caught.value.key, caught.value.retryable) == ("a", True)
        await read.close()

    async def test_a_disk_that_fails_in_the_middle(self, origin: LocalOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
        await origin.put("a", pattern(2 * CHUNK_BYTES), NOTHING_SAID)
        read = await origin.open("a")
        assert read is not None
        chunks = read.chunks()
        await anext(chunks)

        def fails(*_: object) -> bytes:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", fails)
            with pytest.raises(OriginUnavailable, match="Input/output error"):
                await anext(chunks)
        await read.close()


class TestDescriptors:
    async def test_the_level_holds_over_many_operations(self, tmp_path: Path) -> None:
        async with local_origin(tmp_path) as origin:
            await origin.put("warm", b"x", SAID)
            assert origin._sweeping is not None
            await origin._sweeping
            body = memfd_body(pattern(100_000))
            level = open_descriptors()
            for i in range(150):
                name = f"d{i % 7}/{i}"
                await origin.put(name, body if i % 2 else pattern(i), SAID)
                big = await origin.open(name)
                assert big is not None
                if i % 3:
                    await anext(big.chunks())
                await big.close()
                for missing in (f"{name}/x", f"d{i % 7}", "none"):
                    with pytest.raises(NotFound):
                        await origin.open(missing)
                with pytest.raises(StoreError):
                    await origin.put(f"{name}/x", b"", SAID)
                await origin.copy(name, f"copy/{i}")
                await origin.list("d", limit=3)
                await origin.delete([name])
                assert descriptors_now() == level
            assert temporary_files(tmp_path / "origin") == []

    async def test_cancelled_callers_leave_nothing_behind(self, tmp_path: Path) -> None:
        body = file_body(tmp_path / "body", pattern(2 * CHUNK_BYTES))
        before = open_descriptors()
        async with local_origin(tmp_path) as origin:
            await origin.put("big", body, SAID)
            for turns in range(60):
                tasks = [
                    asyncio.create_task(origin.put(f"p/{turns}", body, SAID)),
                    asyncio.create_task(origin.copy("big", f"c/{turns}")),
                    asyncio.create_task(origin.open("big")),
                    asyncio.create_task(origin.list("p/")),
                    asyncio.create_task(read_all(origin, "big")),
                    asyncio.create_task(origin.delete([f"p/{turns - 1}"])),
                ]
                for _ in range(turns % 12):  # so that each is met at another point
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                del tasks, task  # their tracebacks hold what they worked on
            # What runs in threads ends on its own; the same threads then answer this.
            for name in await list_all(origin, "p/"):
                assert await read_all(origin, name) == pattern(2 * CHUNK_BYTES)
        assert temporary_files(tmp_path / "origin") == []
        assert descriptors_now() == before


class TestFileSystems:
    async def test_a_full_one(self, mount: Path, offload: Offload) -> None:
        origin = LocalOrigin(mount, offload=offload)
        old = await origin.put("d/a", pattern(100_000), SAID)
        for body in (pattern(400_000), memfd_body(pattern(400_000))):
            with pytest.raises(QuotaExceeded) as caught:
                await origin.put("d/a", body, SAID)
            assert str(mount) in caught.value.message
            assert not caught.value.retryable
        with pytest.raises(QuotaExceeded):
            await origin.put("d/b", pattern(200_000), SAID)
        assert temporary_files(mount) == []
        assert await origin.stat("d/a") == old
        assert await read_all(origin, "d/a") == pattern(100_000)
        await origin.delete(["d/a", "d/b"])
        await origin.put("d/a", pattern(200_000), SAID)
        await origin.close()

    async def test_one_without_inodes(self, mount: Path, offload: Offload) -> None:
        origin = LocalOrigin(mount, offload=offload)
        await origin.put("a", b"x", NOTHING_SAID)
        for i in range(200):
            try:
                (mount / f"by-hand-{i}").touch()
            except OSError:
                break
        with pytest.raises(QuotaExceeded):
            await origin.put("b", b"x", NOTHING_SAID)
        assert await read_all(origin, "a") == b"x"
        await origin.close()

    async def test_a_read_only_one_can_be_read(self, mount: Path, offload: Offload) -> None:
        (mount / "d").mkdir()
        (mount / "d/a").write_bytes(b"x")
        subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
        origin = LocalOrigin(mount, offload=offload)
        assert await read_all(origin, "d/a") == b"x"
        assert await list_all(origin) == ["d/a"]
        for operation in (
            lambda: origin.put("d/a", b"y", NOTHING_SAID),
            lambda: origin.copy("d/a", "b"),
            lambda: origin.delete(["d/a"]),
        ):
            with pytest.raises(PermissionDenied, match="Read-only"):
                await operation()
        await origin.close()

    async def test_another_one_mounted_below_the_root(self, mount: Path, tmp_path: Path, offload: Offload) -> None:
        origin = LocalOrigin(tmp_path, offload=offload)
        with pytest.raises(OriginUnavailable, match="one file system") as caught:
            await origin.put("mount/a", b"x", SAID)
        assert not caught.value.retryable
        assert temporary_files(tmp_path) == []
        assert list((tmp_path / ".tiered_store/meta").iterdir()) == []
        await origin.put("a", file_body(mount / "body", pattern(70_000)), NOTHING_SAID)
        assert await read_all(origin, "a") == pattern(70_000)
        await origin.close()


async def test_two_daemons_share_a_root(tmp_path: Path) -> None:
    async with local_origin(tmp_path) as one, local_origin(tmp_path) as other:
        puts = [
            origin.put(f"d/{i % 5}", pattern(i * 1000, i), PutHeaders(None, {"i": str(i)}))
            for i in range(50)
            for origin in (one, other)
        ]
        await asyncio.gather(*puts)
        for i in range(5):
            info = await one.stat(f"d/{i}")
            assert info == await other.stat(f"d/{i}")
            number = int(info.metadata["i"])
            assert await read_all(other, f"d/{i}") == pattern(number * 1000, number)
        assert await one.delete([f"d/{i}" for i in range(5)]) == 5
        assert await list_all(other) == []


async def test_a_directory_that_has_gone_is_no_answer_about_any_of_many_names(
    origin: LocalOrigin, tmp_path: Path
) -> None:
    await origin.put("a", b"data", NOTHING_SAID)
    root = origin._root
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(OriginUnavailable, match="removed or replaced"):
        await origin.stat_many(["a", "b"])


async def test_many_questions_have_the_answers_of_single_ones(origin: LocalOrigin) -> None:
    assert isinstance(origin, StatsMany)
    for name in ("a", "d/b"):
        await origin.put(name, b"one", SAID)
    names = ["d/b", "none", "a", "d", "d/b/c", "a", "x" * 300, *(f"n/{number}" for number in range(600))]
    answers = await origin.stat_many(names)
    assert [answers[0], answers[2], answers[5]] == [await origin.stat(name) for name in ("d/b", "a", "a")]
    others = {name: answer for name, answer in zip(names, answers, strict=True) if name not in {"a", "d/b"}}
    assert len(others) == len(names) - 3
    assert all(isinstance(answer, NotFound) and answer.key == name for name, answer in others.items())
    assert await origin.stat_many([]) == []
