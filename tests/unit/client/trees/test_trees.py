"""Trees through both clients' methods, over a store that is a dict."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.origins import open_descriptors
from tests.support.trees import AsyncDictStore, DictStore, Tree, found, key_of, make
from tests.unit.client.trees.test_manifest import HOSTILE
from tiered_store.client.trees import runs
from tiered_store.client.trees.manifest import HEADER
from tiered_store.client.trees.steps import AT_ONCE, BATCH_DIRECTORIES, BATCH_FILES
from tiered_store.errors import IntegrityError, NotFound, StoreError
from tiered_store.objects import INLINE_MAX_BYTES

LARGE = os.urandom(1024) * 65
assert len(LARGE) > INLINE_MAX_BYTES

names = st.binary(min_size=1, max_size=12).filter(lambda name: name not in {b".", b".."} and not set(name) & {0, 47})
contents = st.tuples(st.one_of(st.binary(max_size=20), st.builds(lambda: LARGE)), st.booleans())
targets = st.binary(min_size=1, max_size=12).filter(lambda target: 0 not in target)
trees = st.recursive(
    st.dictionaries(names, st.one_of(contents, targets), max_size=4),
    lambda inner: st.dictionaries(names, st.one_of(contents, targets, inner), max_size=4),
    max_leaves=12,
)
SAMPLE: Tree = {
    b"a.js": (b"one", False),
    b"bin": {b"run": (b"#!", True), b"link": b"../a.js"},
    b"dangling": b"/no/such/file",
    b"empty": {},
    b"large": (LARGE, True),
    b"again": (LARGE, False),
    b"\xff not utf-8": (b"", False),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees, st.booleans())
def test_any_tree_comes_out_as_it_went_in_and_has_the_same_key(tree: Tree, linked: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        make(Path(directory, "in"), tree)
        store = DictStore()
        saved = store.put_tree(Path(directory, "in"))
        restored = store.get_tree(saved.key, Path(directory, "out"), link_from=f"{directory}/links" if linked else None)
        assert found(Path(directory, "out")) == tree
        assert restored._replace(new_files=0, new_bytes=0) == saved._replace(new_files=0, new_bytes=0)
        assert DictStore().put_tree(Path(directory, "out")).key == saved.key
        again = store.get_tree(saved.key, Path(directory, "out"))
        assert (again.new_files, again.shared_bytes) == (0, saved.bytes)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_the_asyncio_client_does_the_same(tree: Tree) -> None:
    async def run(directory: str) -> None:
        store = AsyncDictStore()
        saved = await store.put_tree(Path(directory, "in"))
        assert saved == DictStore().put_tree(Path(directory, "in"))
        assert (await store.get_tree(saved.key, Path(directory, "out"))).bytes == saved.bytes
        assert found(Path(directory, "out")) == tree

    with tempfile.TemporaryDirectory() as directory:
        make(Path(directory, "in"), tree)
        asyncio.run(run(directory))


def test_what_is_counted(tmp_path: Path) -> None:
    make(tmp_path / "in", SAMPLE)
    store = DictStore()
    seen: list[tuple[int, int | None]] = []
    saved = store.put_tree(tmp_path / "in", progress=lambda done, total: seen.append((done, total)))
    assert (saved.files, saved.links, saved.directories, saved.bytes) == (5, 2, 2, 5 + 2 * len(LARGE))
    assert (saved.new_files, saved.new_bytes, saved.shared_bytes) == (4, 5 + len(LARGE), len(LARGE))
    assert len(store.puts) == len(set(store.puts)) == 5  # the manifest is one of them
    assert seen[-1] == (saved.bytes, None)
    seen.clear()
    restored = store.get_tree(saved.key, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert (restored.new_files, restored.new_bytes) == (5, saved.bytes)
    assert seen[-1] == (saved.bytes, saved.bytes)


def test_what_is_no_content_is_left_out(tmp_path: Path) -> None:
    make(tmp_path / "in", {b"a": (b"1", False)})
    key = DictStore().put_tree(tmp_path / "in").key
    os.mkfifo(tmp_path / "in/pipe")
    saved = DictStore().put_tree(tmp_path / "in")
    assert (saved.key, saved.left_out) == (key, (f"{tmp_path}/in/pipe",))


def test_other_rights_times_and_owners_do_not_matter(tmp_path: Path) -> None:
    make(tmp_path / "in", {b"a": (b"1", False), b"d": {}})
    key = DictStore().put_tree(tmp_path / "in").key
    (tmp_path / "in/a").chmod(0o604)
    (tmp_path / "in/d").chmod(0o700)
    os.utime(tmp_path / "in/a", (1, 1))
    assert DictStore().put_tree(tmp_path / "in").key == key
    (tmp_path / "in/a").chmod(0o700)
    assert DictStore().put_tree(tmp_path / "in").key != key


class TestRestoring:
    @pytest.fixture
    def store(self, tmp_path: Path) -> DictStore:
        make(tmp_path / "in", SAMPLE)
        store = DictStore()
        store.put_tree(tmp_path / "in")
        return store

    @pytest.fixture
    def key(self, store: DictStore) -> str:
        return store.puts[-1]

    @pytest.mark.parametrize("linked", [False, True])
    def test_what_is_right_stays_and_what_is_wrong_is_replaced(
        self, store: DictStore, key: str, tmp_path: Path, linked: bool
    ) -> None:
        out = tmp_path / "out"
        options = {"link_from": tmp_path / "links"} if linked else {}
        store.get_tree(key, out, **options)  # type: ignore[arg-type]
        kept = (out / "bin/run").stat()
        (out / "own").write_bytes(b"mine")
        (out / "own").replace(out / "a.js")
        (out / "large").unlink()
        (out / "large").write_bytes(LARGE[:-1])
        (out / "again").unlink()
        (out / "again").symlink_to("/etc/passwd")
        (out / "bin/link").unlink()
        (out / "bin/link").write_bytes(b"no link")
        (out / "more").write_bytes(b"stays")
        restored = store.get_tree(key, out, **options)  # type: ignore[arg-type]
        assert (restored.new_files, restored.new_bytes) == (3, 3 + 2 * len(LARGE))
        assert found(out) == {**SAMPLE, b"more": (b"stays", False)}
        now = (out / "bin/run").stat()
        assert (now.st_ino, now.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)

    def test_the_right_to_execute_is_put_in_order_without_a_copy(
        self, store: DictStore, key: str, tmp_path: Path
    ) -> None:
        store.get_tree(key, tmp_path / "out")
        inode = (tmp_path / "out/bin/run").stat().st_ino
        (tmp_path / "out/bin/run").chmod(0o640)
        (tmp_path / "out/a.js").chmod(0o755)
        assert store.get_tree(key, tmp_path / "out").new_files == 0
        assert found(tmp_path / "out") == SAMPLE
        assert (tmp_path / "out/bin/run").stat().st_ino == inode

    def test_other_names_of_a_wrong_file_keep_what_they_have(self, store: DictStore, key: str, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "elsewhere").write_bytes(b"two")
        os.link(tmp_path / "elsewhere", tmp_path / "out/a.js")
        store.get_tree(key, tmp_path / "out")
        assert (tmp_path / "elsewhere").read_bytes() == b"two"
        assert (tmp_path / "out/a.js").read_bytes() == b"one"

    def test_nothing_is_written_through_a_link_that_is_in_the_way(
        self, store: DictStore, key: str, tmp_path: Path
    ) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "out").mkdir()
        (tmp_path / "out/bin").symlink_to(tmp_path / "outside")
        (tmp_path / "out/a.js").symlink_to(tmp_path / "outside/a.js")
        with pytest.raises(OSError, match="out/bin"):
            store.get_tree(key, tmp_path / "out")
        (tmp_path / "out/bin").unlink()
        store.get_tree(key, tmp_path / "out")
        assert list((tmp_path / "outside").iterdir()) == []
        assert found(tmp_path / "out") == SAMPLE

    @pytest.mark.parametrize(("name", "kind"), [("a.js", "mkdir"), ("bin", "touch"), ("dangling", "mkdir")])
    def test_a_directory_in_the_way_of_a_file_is_an_error_and_stays(
        self, store: DictStore, key: str, tmp_path: Path, name: str, kind: str
    ) -> None:
        (tmp_path / "out").mkdir()
        getattr(tmp_path / "out" / name, kind)()
        with pytest.raises(OSError, match=f"out/{name}"):
            store.get_tree(key, tmp_path / "out")
        assert (tmp_path / "out" / name).is_dir() == (kind == "mkdir")

    @pytest.mark.parametrize("data", [b"one", LARGE])
    def test_a_content_that_is_lost_is_named(self, store: DictStore, key: str, tmp_path: Path, data: bytes) -> None:
        del store.objects[key_of(data)]
        with pytest.raises(NotFound, match="out/a"):
            store.get_tree(key, tmp_path / "out")
        assert not (tmp_path / "out/a.js").exists() or data == LARGE
        assert not (tmp_path / "out/large").exists() or data != LARGE

    def test_a_file_that_cannot_be_written_whole_is_removed(
        self, store: DictStore, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(fd: int, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match=r"No space left on device: .*/out/"):
            store.get_tree(key, tmp_path / "out")
        monkeypatch.undo()
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.stat().st_size] == []

    def test_a_file_system_that_folds_case(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(tmp_path / "in", {b"a": (b"1", False), b"A": (b"2", False)})
        store = DictStore()
        key = store.put_tree(tmp_path / "in").key
        with monkeypatch.context() as patch:
            patch.setattr(runs, "folds_case", lambda _: True)
            with pytest.raises(IntegrityError, match="folds case"):
                store.get_tree(key, tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []
        assert store.get_tree(key, tmp_path / "out").files == 2

    def test_a_manifest_too_large_to_be_kept_is_read_twice(
        self, store: DictStore, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tiered_store.client.trees.restoring._KEPT_MAX_BYTES", 10)
        store.get_tree(key, tmp_path / "out")
        assert found(tmp_path / "out") == SAMPLE

    def test_more_directories_than_a_job_holds_open(self, tmp_path: Path) -> None:
        tree: Tree = {b"%04d" % number: {b"f": (b"%d" % number, False)} for number in range(700)}
        make(tmp_path / "many", tree)
        most = [0]

        class Store(DictStore):
            def get_many(self, keys: Any) -> dict[str, bytes]:
                most[0] = max(most[0], open_descriptors())
                return super().get_many(keys)

        store = Store()
        key = store.put_tree(tmp_path / "many").key
        before = open_descriptors()
        store.get_tree(key, tmp_path / "out")
        assert found(tmp_path / "out") == tree
        # Those of the jobs under way, of the one that is being made, and of the way down to it.
        assert before < most[0] <= before + (AT_ONCE + 2) * BATCH_DIRECTORIES + 10 < before + 700


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_changes_nothing(tmp_path: Path, name: str) -> None:
    raw, _ = HOSTILE[name]
    key = key_of(raw)
    with pytest.raises(IntegrityError):
        DictStore({key: raw, key_of(b"1"): b"1"}).get_tree(key, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("size", "data"), [(4, b"one"), (INLINE_MAX_BYTES + 1, b"one"), (0, b"one"), (3, LARGE)])
def test_a_manifest_that_lies_about_a_size(tmp_path: Path, size: int, data: bytes) -> None:
    raw = HEADER + b"f%b %d name\0" % (key_of(data)[7:].encode(), size)
    with pytest.raises(IntegrityError, match="size"):
        DictStore({key_of(raw): raw, key_of(data): data}).get_tree(key_of(raw), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


class TestLinking:
    def test_files_are_links_and_read_only(self, tmp_path: Path) -> None:
        make(tmp_path / "in", SAMPLE)
        store = DictStore()
        key = store.put_tree(tmp_path / "in").key
        for name in ("out", "second"):
            store.get_tree(key, tmp_path / name, link_from=tmp_path / "links")
        one, other = (tmp_path / name / "large" for name in ("out", "second"))
        assert one.stat().st_ino == other.stat().st_ino
        assert (one.stat().st_mode & 0o777, (tmp_path / "out/a.js").stat().st_mode & 0o777) == (0o555, 0o444)
        # Equal contents with and without the right to execute cannot be one file.
        assert (tmp_path / "out/again").stat().st_ino != one.stat().st_ino

    def test_the_store_is_not_asked_for_what_can_be_linked(self, tmp_path: Path) -> None:
        make(tmp_path / "in", SAMPLE)
        store = DictStore()
        key = store.put_tree(tmp_path / "in").key
        store.get_tree(key, tmp_path / "out", link_from=tmp_path / "links")
        only_manifest = DictStore({key: store.objects[key]})
        only_manifest.get_tree(key, tmp_path / "second", link_from=tmp_path / "links")
        assert found(tmp_path / "second") == SAMPLE

    @pytest.mark.parametrize("inside", [".", "links", "../link/below"])
    def test_no_tree_can_name_the_contents_of_others(self, tmp_path: Path, inside: str) -> None:
        """One could link a content of equal size, with the right mode and time, to the name of another."""
        make(tmp_path / "in", {b"a": (b"one", False)})
        (tmp_path / "link").symlink_to("out")
        store = DictStore()
        key = store.put_tree(tmp_path / "in").key
        (tmp_path / "out").mkdir()
        with pytest.raises(OSError, match="inside of the directory"):
            store.get_tree(key, tmp_path / "out", link_from=tmp_path / "out" / inside)
        assert found(tmp_path / "out") == {}

    def test_a_pipe_in_the_place_of_an_empty_content_is_not_linked(self, tmp_path: Path) -> None:
        make(tmp_path / "in", {b"a": (b"", False)})
        store = DictStore()
        key = store.put_tree(tmp_path / "in").key
        store.get_tree(key, tmp_path / "out", link_from=tmp_path / "links")
        content = (tmp_path / "links" / key_of(b"")[7:9] / key_of(b"")[7:]).resolve(strict=True)
        like = content.stat()
        content.unlink()
        os.mkfifo(content)
        content.chmod(like.st_mode & 0o777)
        os.utime(content, ns=(like.st_mtime_ns, like.st_mtime_ns))
        store.get_tree(key, tmp_path / "second", link_from=tmp_path / "links")
        assert (tmp_path / "second/a").is_file()

    def test_a_content_that_was_written_into_is_made_anew(self, tmp_path: Path) -> None:
        make(tmp_path / "in", {b"a": (b"one", False)})
        store = DictStore()
        key = store.put_tree(tmp_path / "in").key
        store.get_tree(key, tmp_path / "out", link_from=tmp_path / "links")
        (tmp_path / "out/a").chmod(0o644)
        (tmp_path / "out/a").write_bytes(b"two")
        (tmp_path / "out/a").chmod(0o444)
        store.get_tree(key, tmp_path / "second", link_from=tmp_path / "links")
        assert (tmp_path / "second/a").read_bytes() == b"one"

    def test_an_inode_with_all_the_names_it_can_have(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(tmp_path / "in", {b"a": (b"one", False)})
        store = DictStore()
        key = store.put_tree(tmp_path / "in").key
        store.get_tree(key, tmp_path / "out", link_from=tmp_path / "links")
        real, refusals = os.link, [OSError(errno.EMLINK, "Too many links")] * 2

        def link(*arguments: Any, **options: Any) -> None:
            if refusals:
                raise refusals.pop()
            real(*arguments, **options)

        monkeypatch.setattr(os, "link", link)
        store.get_tree(key, tmp_path / "second", link_from=tmp_path / "links")
        assert (tmp_path / "second/a").stat().st_ino != (tmp_path / "out/a").stat().st_ino

    def test_between_file_systems_it_says_what_to_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(tmp_path / "in", {b"a": (b"one", False)})
        store = DictStore()
        key = store.put_tree(tmp_path / "in").key

        def link(*_: Any, **__: Any) -> None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", link)
        with pytest.raises(OSError, match="must be on the file system of"):
            store.get_tree(key, tmp_path / "out", link_from=tmp_path / "links")


class TestSaving:
    def test_a_second_save_reads_only_what_has_changed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tiered_store.client.trees.statcache.RACY_NS", 0)
        make(tmp_path / "in", SAMPLE)
        store = DictStore()
        store.put_tree(tmp_path / "in", stat_cache=tmp_path / "cache")
        (tmp_path / "in/a.js").write_bytes(b"two")
        opened: list[bytes] = []
        real = os.open
        monkeypatch.setattr(os, "open", lambda path, *rest, **more: opened.append(path) or real(path, *rest, **more))
        saved = store.put_tree(tmp_path / "in", stat_cache=tmp_path / "cache")
        assert [path for path in opened if str(path).startswith("b")] == [os.fsencode(tmp_path / "in/a.js")]
        assert (saved.new_files, saved.new_bytes) == (1, 3)
        assert saved.key == DictStore().put_tree(tmp_path / "in").key

    def test_what_the_store_has_lost_is_stored_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tiered_store.client.trees.statcache.RACY_NS", 0)
        make(tmp_path / "in", SAMPLE)
        key = DictStore().put_tree(tmp_path / "in", stat_cache=tmp_path / "cache").key
        other = DictStore()
        assert other.put_tree(tmp_path / "in", stat_cache=tmp_path / "cache").new_files == 4
        other.get_tree(key, tmp_path / "out")
        assert found(tmp_path / "out") == SAMPLE

    def test_a_large_file_that_changes_behind_its_hash_is_stored_as_it_is_then(self, tmp_path: Path) -> None:
        make(tmp_path / "in", {b"large": (LARGE, False)})
        changed = LARGE + b"more"

        class Store(DictStore):
            def put_file(self, key: str, source: Any) -> Any:
                if not self.puts and (tmp_path / "in/large").stat().st_size == len(LARGE):
                    (tmp_path / "in/large").write_bytes(changed)
                return super().put_file(key, source)

        store = Store()
        saved = store.put_tree(tmp_path / "in")
        assert saved.bytes == len(changed)
        store.get_tree(saved.key, tmp_path / "out")
        assert (tmp_path / "out/large").read_bytes() == changed

    def test_a_large_file_that_never_holds_still(self, tmp_path: Path) -> None:
        make(tmp_path / "in", {b"large": (LARGE, False)})

        class Store(DictStore):
            def put_file(self, key: str, source: Any) -> Any:
                with Path(source).open("ab") as file:
                    file.write(b"more")
                return super().put_file(key, source)

        with pytest.raises(IntegrityError):
            Store().put_tree(tmp_path / "in")

    def test_equal_contents_in_jobs_side_by_side_are_stored_and_counted_once(self, tmp_path: Path) -> None:
        """Both jobs have asked what exists before either has stored anything."""
        make(tmp_path / "in", {b"%04d" % number: (b"same", False) for number in range(BATCH_FILES + 1)})
        with runs.Save(tmp_path / "in", None, None) as save:
            one, other = save.plan.jobs()
            for job in (one, other):
                job.send(next(job).run())  # type: ignore[union-attr]
            nowhere = {key_of(b"same"): False}
            assert one.send(nowhere).items == {key_of(b"same"): b"same"}  # type: ignore[union-attr]
            assert other.send(nowhere).items == {}  # type: ignore[union-attr]

    def test_what_cannot_be_written_down_is_said(self, tmp_path: Path) -> None:
        deep = tmp_path / "in"
        deep.mkdir()
        (deep / "/".join("d" * 257)).mkdir(parents=True)
        with pytest.raises(StoreError, match="deeper than 256"):
            DictStore().put_tree(deep)

    @pytest.mark.parametrize(("name", "kind"), [("no", FileNotFoundError), ("file", NotADirectoryError)])
    def test_what_is_no_directory(self, tmp_path: Path, name: str, kind: type[Exception]) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(kind):
            DictStore().put_tree(tmp_path / name)


@pytest.mark.usefixtures("level")
async def test_a_restore_that_is_cancelled_leaves_whole_files_and_nothing_running(tmp_path: Path) -> None:
    tree: Tree = {b"%03d" % number: {b"f": (b"%d" % number, False)} for number in range(400)}
    make(tmp_path / "in", tree)
    reached = asyncio.Event()

    class Store(AsyncDictStore):
        calls = 0

        async def get_many(self, keys: Any) -> dict[str, bytes]:
            self.calls += 1
            if self.calls == 3:
                reached.set()
                await asyncio.Event().wait()
            return await super().get_many(keys)

    store = Store()
    key = (await store.put_tree(tmp_path / "in")).key
    restoring = asyncio.create_task(store.get_tree(key, tmp_path / "out"))
    await reached.wait()
    restoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await restoring
    assert asyncio.all_tasks() == {asyncio.current_task()}
    some = found(tmp_path / "out")
    assert all(tree[name] == entry for name, entry in some.items() if entry != {})
    assert len([entry for entry in some.values() if entry]) < len(tree)
    await AsyncDictStore(store.store.objects).get_tree(key, tmp_path / "out")
    assert found(tmp_path / "out") == tree


@pytest.mark.usefixtures("level")
def test_an_interrupt_ends_a_save_and_keeps_the_old_cache(tmp_path: Path) -> None:
    make(tmp_path / "in", SAMPLE)
    (tmp_path / "cache").write_bytes(b"old")

    def interrupt(_done: int, _total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DictStore().put_tree(tmp_path / "in", stat_cache=tmp_path / "cache", progress=interrupt)
    assert (tmp_path / "cache").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "in"]
