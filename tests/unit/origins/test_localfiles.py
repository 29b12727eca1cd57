from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.origins import NOTHING_SAID, descriptors_now, file_body, open_descriptors, pattern
from tiered_store.errors import (
    IntegrityError,
    InvalidKey,
    KeyConflict,
    NotFound,
    OriginUnavailable,
    PermissionDenied,
    QuotaExceeded,
    StoreError,
)
from tiered_store.objects import ObjectInfo
from tiered_store.origins.base import CHUNK_BYTES, LISTING_METADATA_BYTES, PutHeaders
from tiered_store.origins.localfiles import LocalFiles, OpenFile, read_chunk
from tiered_store.origins.transfer import copy_range
from tiered_store.protocol.messages import decode_info, encode_info

SAID = PutHeaders("text/plain", {"user": "7"})
HOUR_NS = 3600 * 1_000_000_000


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "origin"


@pytest.fixture
def files(base: Path) -> Iterator[LocalFiles]:
    before = open_descriptors()
    files = LocalFiles(base)
    files.put("warm", b"", SAID)
    files.delete(["warm"])
    level = open_descriptors()
    yield files
    assert descriptors_now() == level, "an operation has left a descriptor open"
    assert level - before <= 3
    assert temporary_files(base) == [], "an operation has left a temporary file"


def temporary_files(base: Path) -> list[Path]:
    return [path for path in (base / ".tiered_store/tmp").rglob("*") if not path.is_dir()]


def sidecars(base: Path) -> list[str]:
    meta = base / ".tiered_store/meta"
    return sorted(path.name for path in meta.iterdir()) if meta.is_dir() else []


def content(files: LocalFiles, name: str) -> bytes:
    opened = files.open(name, 0, None, None)
    assert opened is not None
    rest = b""
    if opened.descriptor is not None:
        rest = read_chunk(opened.descriptor, opened.info, opened.position, opened.end - opened.position)
        opened.descriptor.close()
    return opened.head + rest


def names(files: LocalFiles) -> list[str]:
    return [info.key for info in files.list("", "", 1000).items]


def fails(number: int) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


class TestRoot:
    def test_a_missing_one_is_made_private(self, tmp_path: Path) -> None:
        LocalFiles(tmp_path / "a/b").put("x", b"", NOTHING_SAID)
        assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700

    def test_an_existing_one_is_left_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir(mode=0o755)
        (tmp_path / "link").symlink_to("a")
        LocalFiles(tmp_path / "link").put("x", b"1", NOTHING_SAID)
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755
        assert (tmp_path / "a/x").read_bytes() == b"1"

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        with pytest.raises(KeyConflict):
            LocalFiles(tmp_path / "a")

    def test_one_that_was_removed_is_not_an_empty_one(self, tmp_path: Path) -> None:
        files = LocalFiles(tmp_path / "a")
        (tmp_path / "a").rmdir()
        for call in (
            lambda: files.stat("x"),
            lambda: files.open("x", 0, None, None),
            lambda: files.put("x", b"", NOTHING_SAID),
            lambda: files.copy("x", "y"),
            lambda: files.list("", "", 10),
            lambda: files.delete(["x"]),
        ):
            with pytest.raises(OriginUnavailable, match="was removed"):
                call()


class TestHandMadeFiles:
    def test_are_objects_with_derived_information(self, files: LocalFiles, base: Path) -> None:
        (base / "d").mkdir()
        (base / "d/page.html").write_bytes(b"<p>")
        info = files.stat("d/page.html")
        assert (info.size, info.content_type, info.metadata) == (3, None, {})
        assert info.modified_ns == (base / "d/page.html").stat().st_mtime_ns
        assert content(files, "d/page.html") == b"<p>"
        assert names(files) == ["d/page.html"]
        copied = files.copy("d/page.html", "copy")
        assert (copied.size, copied.content_type) == (3, None)

    def test_a_file_written_over_an_object_loses_the_metadata(self, files: LocalFiles, base: Path) -> None:
        old = files.put("a", b"xyz", SAID)
        with (base / "a").open("r+b") as file:
            file.write(b"123")
        os.utime(base / "a", ns=(5, 5))
        info = files.stat("a")
        assert (info.content_type, info.metadata) == (None, {})
        assert info.etag != old.etag

    @pytest.mark.parametrize("mtime_ns", [10**19, 2**63, -(10**19), -(2**63) - 1])
    def test_a_time_that_no_message_can_hold_is_the_nearest_that_it_can(
        self, files: LocalFiles, base: Path, monkeypatch: pytest.MonkeyPatch, mtime_ns: int
    ) -> None:
        (base / "a").write_bytes(b"x")

        def with_time(call: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
            # Not by utime: file systems differ in the times that they can keep.
            def changed(*args: Any, **kwargs: Any) -> os.stat_result:
                status = call(*args, **kwargs)
                times = {"st_mtime_ns": mtime_ns, "st_ctime_ns": status.st_ctime_ns}
                return os.stat_result(tuple(status), times)

            return changed

        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", with_time(os.stat))
            patch.setattr(os, "fstat", with_time(os.fstat))
            info = files.stat("a")
            opened = files.open("a", 0, None, None)
            assert opened is not None
            assert opened.info == info
            assert files.list("", "", 10).items == [info]
        assert info.modified_ns == (2**63 - 1 if mtime_ns > 0 else -(2**63))
        assert info.modified.year == (2262 if mtime_ns > 0 else 1677)
        assert info.etag.endswith(f"-{mtime_ns:x}")
        assert decode_info(encode_info(info)) == (info, "")

    def test_what_is_put_can_be_read_by_others(self, files: LocalFiles, base: Path) -> None:
        mask = os.umask(0o022)
        try:
            files.put("d/a", b"x", NOTHING_SAID)
        finally:
            os.umask(mask)
        assert (base / "d/a").stat().st_mode & 0o777 == 0o644
        assert (base / "d").stat().st_mode & 0o777 == 0o755

    @pytest.mark.parametrize("kind", ["pipe", "socket", "link", "dangling", "directory", "loop"])
    def test_what_is_no_regular_file_is_not_there(
        self, files: LocalFiles, base: Path, tmp_path: Path, kind: str
    ) -> None:
        (tmp_path / "secret").write_bytes(b"secret")
        path = base / "x"
        make: dict[str, Callable[[], object]] = {
            "pipe": lambda: os.mkfifo(path),
            "socket": lambda: os.mknod(path, 0o140600),
            "link": lambda: path.symlink_to(tmp_path / "secret"),
            "dangling": lambda: path.symlink_to("nowhere"),
            "directory": path.mkdir,
            "loop": lambda: path.symlink_to("x"),
        }
        make[kind]()
        for call in (
            lambda: files.stat("x"),
            lambda: files.open("x", 0, None, None),
            lambda: files.copy("x", "y"),
            lambda: files.stat("x/y"),
        ):
            with pytest.raises(NotFound):
                call()
        assert files.delete(["x"]) == 0
        assert names(files) == []
        files.put("x", b"new", NOTHING_SAID)
        assert content(files, "x") == b"new"
        assert (tmp_path / "secret").read_bytes() == b"secret"

    def test_nothing_is_written_through_a_linked_directory(self, files: LocalFiles, base: Path, tmp_path: Path) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside/x").write_bytes(b"theirs")
        (base / "d").symlink_to(tmp_path / "outside")
        with pytest.raises(KeyConflict):
            files.put("d/x", b"ours", NOTHING_SAID)
        with pytest.raises(NotFound):
            files.stat("d/x")
        assert files.delete(["d/x"]) == 0
        assert [(path.name, path.read_bytes()) for path in (tmp_path / "outside").iterdir()] == [("x", b"theirs")]


class TestConflicts:
    def test_below_a_file(self, files: LocalFiles) -> None:
        files.put("a", b"kept", SAID)
        for name in ("a/b", "a/b/c"):
            with pytest.raises(KeyConflict) as caught:
                files.put(name, b"x", SAID)
            assert caught.value.key == name
        assert content(files, "a") == b"kept"

    def test_above_files(self, files: LocalFiles, base: Path) -> None:
        files.put("a/b", b"kept", SAID)
        with pytest.raises(KeyConflict):
            files.put("a", b"x", SAID)
        with pytest.raises(KeyConflict):
            files.copy("a/b", "a")
        assert content(files, "a/b") == b"kept"
        assert len(sidecars(base)) == 1

    def test_empty_directories_make_room(self, files: LocalFiles, base: Path) -> None:
        (base / "a/b/c").mkdir(parents=True)
        files.put("a", b"x", NOTHING_SAID)
        assert content(files, "a") == b"x"

    def test_a_segment_that_is_too_long(self, files: LocalFiles) -> None:
        files.put("d/short", b"", NOTHING_SAID)
        name = "d/" + "x" * 256
        with pytest.raises(InvalidKey, match="255 bytes"):
            files.put(name, b"", NOTHING_SAID)
        with pytest.raises(NotFound):
            files.stat(name)
        assert files.delete([name, name + "/y"]) == 0
        assert files.list(name, "", 10).items == []
        assert files.list(name + "/", "", 10).items == []

    @pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", ".tiered_store/meta/x", ""])
    def test_names_of_no_key(self, files: LocalFiles, name: str) -> None:
        with pytest.raises(InvalidKey):
            files.stat(name)
        with pytest.raises(InvalidKey):
            files.put(name, b"", NOTHING_SAID)


class TestVersions:
    def test_a_reused_inode_does_not_repeat_an_etag(self, tmp_path: Path) -> None:
        files = LocalFiles(tmp_path / "a", fsync=False, clock=lambda: 1_700_000_000_000_000_000)
        seen = set()
        for _ in range(300):
            info = files.put("a", b"same", NOTHING_SAID)
            assert files.stat("a") == info
            seen.add(info.etag)
            files.delete(["a"])
        assert len(seen) == 300
        assert len({etag.split("-")[0] for etag in seen}) < 300, "no inode was reused, so nothing was shown"

    def test_a_replaced_file_takes_its_sidecar_along(self, files: LocalFiles, base: Path) -> None:
        files.put("a", b"1", SAID)
        assert len(sidecars(base)) == 1
        info = files.put("a", b"2", PutHeaders("text/html"))
        assert [name.partition(".")[2] for name in sidecars(base)] == [info.etag]
        files.put("a", b"3", NOTHING_SAID)
        assert sidecars(base) == []
        files.put("a", b"4", SAID)
        files.delete(["a"])
        assert sidecars(base) == []

    @pytest.mark.parametrize("operation", ["stat", "open"])
    def test_a_put_between_stat_and_sidecar_gives_no_mix(
        self, files: LocalFiles, monkeypatch: pytest.MonkeyPatch, operation: str
    ) -> None:
        files.put("a", b"old", PutHeaders("old", {"v": "1"}))
        new: list[ObjectInfo] = []
        load = files._sidecars.load

        def late(name: str, version: str) -> PutHeaders | None:
            if not new:
                new.append(files.put("a", b"new!", PutHeaders("new", {"v": "2"})))
            return load(name, version)

        monkeypatch.setattr(files._sidecars, "load", late)
        if operation == "stat":
            assert files.stat("a") == new[0]
        else:
            opened = files.open("a", 0, None, None)
            assert opened is not None
            assert (opened.info, opened.head) == (new[0], b"new!")

    @pytest.mark.parametrize("operation", ["stat", "open"])
    def test_a_file_that_never_rests(self, files: LocalFiles, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
        files.put("a", b"x", NOTHING_SAID)
        load = files._sidecars.load

        def late(name: str, version: str) -> PutHeaders | None:
            files.put("a", b"x", NOTHING_SAID)
            return load(name, version)

        monkeypatch.setattr(files._sidecars, "load", late)
        with pytest.raises(OriginUnavailable, match="replaced faster"):
            files.stat("a") if operation == "stat" else files.open("a", 0, None, None)


class TestReading:
    def test_a_small_object_is_read_at_once_and_closed(self, files: LocalFiles) -> None:
        files.put("a", pattern(CHUNK_BYTES), NOTHING_SAID)
        opened = files.open("a", 0, None, None)
        assert opened is not None
        assert opened.descriptor is None
        assert opened.head == pattern(CHUNK_BYTES)

    def _opened(self, files: LocalFiles) -> OpenFile:
        files.put("a", pattern(3 * CHUNK_BYTES), NOTHING_SAID)
        opened = files.open("a", 0, None, None)
        assert opened is not None
        return opened

    @pytest.mark.parametrize("change", ["truncate", "touch", "append"])
    def test_a_file_that_changes_is_no_success(self, files: LocalFiles, base: Path, change: str) -> None:
        opened = self._opened(files)
        assert opened.descriptor is not None
        if change == "truncate":
            os.truncate(base / "a", 2 * CHUNK_BYTES - 1)
        elif change == "touch":
            os.utime(base / "a", ns=(7, 7))
        else:
            with (base / "a").open("ab") as file:
                file.write(b"x")
        with pytest.raises(OriginUnavailable) as caught:
            read_chunk(opened.descriptor, opened.info, CHUNK_BYTES, CHUNK_BYTES)
        assert caught.value.retryable
        opened.descriptor.close()

    def test_short_reads_are_continued(self, files: LocalFiles, monkeypatch: pytest.MonkeyPatch) -> None:
        opened = self._opened(files)
        assert opened.descriptor is not None
        pread = os.pread
        monkeypatch.setattr(os, "pread", lambda fd, count, offset: pread(fd, min(count, 70_000), offset))
        chunk = read_chunk(opened.descriptor, opened.info, 11, CHUNK_BYTES)
        assert chunk == pattern(3 * CHUNK_BYTES)[11 : 11 + CHUNK_BYTES]
        opened.descriptor.close()

    def test_a_disk_that_fails(self, files: LocalFiles, monkeypatch: pytest.MonkeyPatch) -> None:
        files.put("a", b"x", NOTHING_SAID)
        monkeypatch.setattr(os, "pread", fails(errno.EIO))
        with pytest.raises(OriginUnavailable):
            files.open("a", 0, None, None)

    def test_a_source_that_changes_while_it_is_copied(
        self, files: LocalFiles, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files.put("a", pattern(1000), SAID)

        def slow(*arguments: int) -> None:
            copy_range(*arguments)
            os.utime(base / "a", ns=(7, 7))

        monkeypatch.setattr("tiered_store.origins.localfiles.copy_range", slow)
        with pytest.raises(OriginUnavailable, match="changed while"):
            files.copy("a", "b")
        assert names(files) == ["a"]


class TestFailedPuts:
    """The old object stays whole, and nothing of the new one stays."""

    @pytest.mark.parametrize(
        ("call", "number", "error"),
        [
            ("write", errno.ENOSPC, QuotaExceeded),
            ("write", errno.EDQUOT, QuotaExceeded),
            ("fsync", errno.EIO, OriginUnavailable),
            ("fsync", errno.ENOSPC, QuotaExceeded),
            ("rename", errno.EXDEV, OriginUnavailable),
            ("rename", errno.EROFS, PermissionDenied),
            ("utime", errno.EPERM, PermissionDenied),
        ],
    )
    def test_by_the_system(
        self,
        files: LocalFiles,
        base: Path,
        monkeypatch: pytest.MonkeyPatch,
        call: str,
        number: int,
        error: type[StoreError],
    ) -> None:
        old = files.put("d/a", b"old", SAID)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fails(number))
            with pytest.raises(error) as caught:
                files.put("d/a", pattern(100_000), PutHeaders("new", {"a": "b"}))
        assert caught.value.key == "d/a"
        assert files.stat("d/a") == old
        assert content(files, "d/a") == b"old"
        assert len(sidecars(base)) == 1

    def test_by_a_body_that_is_too_short(self, files: LocalFiles, tmp_path: Path) -> None:
        body = file_body(tmp_path / "body", pattern(1000))
        (tmp_path / "body").write_bytes(b"short")
        with pytest.raises(IntegrityError):
            files.put("a", body, NOTHING_SAID)
        body.descriptor.close()
        with pytest.raises(NotFound):
            files.stat("a")
        # The descriptor of the body was the test's own; the level is checked without it.

    def test_by_a_directory_that_may_not_be_written(self, tmp_path: Path) -> None:
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere; a read-only mount shows the same for root in test_local.py")
        files = LocalFiles(tmp_path / "a")
        (tmp_path / "a").chmod(0o500)
        with pytest.raises(PermissionDenied):
            files.put("x", b"", NOTHING_SAID)


class TestRaces:
    def test_deletes_prune_the_directories_that_puts_have_just_made(self, files: LocalFiles) -> None:
        quick = LocalFiles(files.root, fsync=False)
        errors: list[BaseException] = []
        done = threading.Event()

        def put_and_delete(number: int) -> None:
            try:
                for _ in range(150):
                    quick.put(f"a/b/c/{number}", b"x", NOTHING_SAID)
                    assert content(quick, f"a/b/c/{number}") == b"x"
                    assert quick.delete([f"a/b/c/{number}"]) == 1
            except BaseException as error:
                errors.append(error)
            finally:
                done.set()

        threads = [threading.Thread(target=put_and_delete, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert names(files) == []
        quick.end()

    def test_every_answer_is_of_one_version(self, files: LocalFiles) -> None:
        quick = LocalFiles(files.root, fsync=False)
        quick.put("a", b"", NOTHING_SAID)
        done = threading.Event()

        def write() -> None:
            for i in range(300):
                # Every third says nothing, and so has no sidecar.
                quick.put("a", b"x" * i, PutHeaders(str(i), {"i": str(i)}) if i % 3 else NOTHING_SAID)
            done.set()

        writing = threading.Thread(target=write)
        writing.start()
        while not done.is_set():
            opened = files.open("a", 0, None, None)
            assert opened is not None
            for info in (opened.info, files.stat("a"), files.list("", "", 1).items[0]):
                expected = str(info.size) if info.size % 3 else None
                assert (info.content_type, info.metadata.get("i")) == (expected, expected)
            assert len(opened.head) == opened.info.size
        writing.join()
        quick.end()

    @pytest.mark.parametrize("times", [1, 10])
    def test_a_directory_that_is_pruned_before_the_rename(
        self, files: LocalFiles, base: Path, monkeypatch: pytest.MonkeyPatch, times: int
    ) -> None:
        rename = os.rename
        left = [times]

        def prunes(source: str, target: str, **where: int) -> None:
            if left[0]:
                left[0] -= 1
                (base / "a/b").rmdir()
                (base / "a").rmdir()
            rename(source, target, **where)

        monkeypatch.setattr(os, "rename", prunes)
        files.put("a/b/c", b"x", NOTHING_SAID)
        assert content(files, "a/b/c") == b"x"

    @pytest.mark.parametrize("call", ["rename", "mkdir"])
    def test_one_that_is_always_pruned(self, files: LocalFiles, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
        monkeypatch.setattr(os, call, fails(errno.ENOENT))
        with pytest.raises(OriginUnavailable, match="as fast as it is made"):
            files.put("a/b/c", b"x", NOTHING_SAID)


class TestDurability:
    def test_everything_new_is_fsynced_before_the_put_returns(
        self, files: LocalFiles, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events: list[str] = []
        fsync, rename = os.fsync, os.rename

        def synced(fd: int) -> None:
            path = Path(f"/proc/self/fd/{fd}").readlink()
            events.append("fsync " + ("file" if not path.is_dir() else f"/{path.relative_to(base)}"))
            fsync(fd)

        def renamed(source: str, target: str, **where: int) -> None:
            events.append("rename " + ("sidecar" if "." in target else target))
            rename(source, target, **where)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "rename", renamed)
        files.put("a/b/c", b"x", SAID)
        assert events == [
            "fsync file", "fsync file", "rename sidecar", "fsync /.tiered_store/meta",
            "rename c", "fsync /a/b", "fsync /.", "fsync /a",
        ]  # fmt: skip
        events.clear()
        files.put("a/b/c", b"x", NOTHING_SAID)
        assert events == ["fsync file", "rename c", "fsync /a/b"]

    def test_without_fsync_there_is_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = LocalFiles(tmp_path / "a", fsync=False)
        files.put("a", b"x", SAID)
        monkeypatch.setattr(os, "fsync", fails(errno.EIO))
        files.put("d/a", b"x", SAID)
        files.copy("d/a", "d/b")
        assert files.delete(["d/a"]) == 1


#: Puts over an object and dies at a step: no error handling, no tidying up.
DYING_PUT = """
import os, sys
from pathlib import Path
from tiered_store.origins.base import PutHeaders
from tiered_store.origins.localfiles import LocalFiles

base, step = Path(sys.argv[1]), sys.argv[2]
files = LocalFiles(base)
rename, fsync = os.rename, os.fsync

def dying_rename(source, target, **where):
    if target == "a" and step == "sidecar written":
        os._exit(9)
    rename(source, target, **where)
    if target == "a" and step == "renamed":
        os._exit(9)

def dying_fsync(fd):
    if step == "file written":
        os._exit(9)
    fsync(fd)
    done = os.fstat(fd).st_ino == base.stat().st_ino and (base / "a").stat().st_size == 4
    if done and step == "all but the old sidecar":
        os._exit(9)

os.rename, os.fsync = dying_rename, dying_fsync
files.put("a", b"new!", PutHeaders("new", {"v": "2"}))
"""


class TestCrashes:
    @pytest.mark.parametrize("step", ["file written", "sidecar written", "renamed", "all but the old sidecar"])
    def test_a_put_that_dies_leaves_the_old_or_the_new_pair(self, files: LocalFiles, base: Path, step: str) -> None:
        old = files.put("a", b"old", PutHeaders("old", {"v": "1"}))
        ended = subprocess.run([sys.executable, "-c", DYING_PUT, str(base), step], check=False)
        assert ended.returncode == 9
        info = files.stat("a")
        if step in {"file written", "sidecar written"}:
            assert info == old
            assert content(files, "a") == b"old"
        else:
            assert (info.content_type, info.metadata, content(files, "a")) == ("new", {"v": "2"}, b"new!")
        assert len(sidecars(base)) == (1 if step == "file written" else 2)
        now = files._clock()
        files._clock = lambda: now + 2 * HOUR_NS
        left = {"file written": 1, "sidecar written": 2, "renamed": 1, "all but the old sidecar": 1}
        assert sum(files.sweep()) == left[step]  # temporary files and orphaned sidecars
        assert [name.partition(".")[2] for name in sidecars(base)] == [info.etag]
        assert files.stat("a") == info

    @pytest.mark.parametrize("at_once", [1, 256])
    def test_the_sweep_spares_what_is_young_or_in_use(
        self, files: LocalFiles, base: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
    ) -> None:
        monkeypatch.setattr("tiered_store.origins.sidecar._SWEEP_SLICE", at_once)
        files.put("a", b"x", SAID)
        files.put("gone", b"x", SAID)
        files.put("file", b"x", SAID)
        files.put("replaced", b"x", SAID)
        (base / "gone").unlink()
        (base / "replaced").unlink()
        (base / "replaced").write_bytes(b"by hand")
        (base / "file").unlink()
        (base / "file").mkdir()
        assert sum(files.sweep()) == 0
        now = files._clock()
        files._clock = lambda: now + 2 * HOUR_NS
        assert sum(files.sweep()) == 3
        assert files.stat("a").metadata == SAID.metadata
        assert len(sidecars(base)) == 1

    def test_an_orphan_in_a_directory_that_cannot_be_read_stays(
        self, files: LocalFiles, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files.put("a", b"x", SAID)
        assert not files._is_orphan("../a", "1-2-3")
        monkeypatch.setattr(os, "stat", fails(errno.EIO))
        assert not files._is_orphan("a", "1-2-3")


class TestListing:
    def test_a_page_ends_where_the_metadata_gets_long(self, files: LocalFiles) -> None:
        for number in range(100):
            files.put(f"n/{number:02}", b"", PutHeaders(None, {"m": "v" * 16_000}))
        first = files.list("n/", "", 1000)
        rest = files.list("n/", first.items[-1].key, 1000)
        assert (len(first.items), first.more, rest.more) == (LISTING_METADATA_BYTES // 16_001 + 1, True, False)
        assert len(first.items) + len(rest.items) == 100

    def test_a_file_that_vanishes_in_a_page_is_left_out(
        self, files: LocalFiles, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("a", "b", "c"):
            files.put(name, b"", NOTHING_SAID)
        load = files._sidecars.load

        def late(name: str, version: str) -> PutHeaders | None:
            if name == "a":
                (base / "b").unlink()
                (base / "c").unlink()
                (base / "c").mkdir()
            return load(name, version)

        monkeypatch.setattr(files._sidecars, "load", late)
        assert names(files) == ["a"]

    def test_a_directory_that_cannot_be_read_is_an_error(
        self, files: LocalFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files.put("a/b", b"", NOTHING_SAID)
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", fails(errno.EACCES))
            with pytest.raises(PermissionDenied):
                files.list("a/", "", 10)
