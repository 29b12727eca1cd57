from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.origins import descriptors_now, open_descriptors
from tiered_store.errors import TooLarge
from tiered_store.key import MAX_KEY_BYTES
from tiered_store.objects import Descriptor, ObjectInfo
from tiered_store.origins.base import PutHeaders
from tiered_store.origins.ownfiles import OwnFiles
from tiered_store.origins.sidecar import Sidecars, decode, encode, version_at, version_of
from tiered_store.protocol.messages import decode_info, encode_info

SAID = PutHeaders("text/plain", {"user": "7", "été": "\N{SNOWMAN}"})
GOLDEN = (
    "tiered_store sidecar 1 19bab3d4\n"
    '{"content_type": "text/plain", "metadata": {"user": "7", "été": "\N{SNOWMAN}"}, "name": "a/b"}\n'
).encode()
VERSION = "1f-400-18e9ea0432555ebe"
HOUR_NS = 3600 * 1_000_000_000


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnFiles]:
    before = open_descriptors()
    own = OwnFiles(Descriptor(os.open(tmp_path, os.O_RDONLY)))
    yield own
    own.end()
    del own
    assert descriptors_now() <= before + 1  # the fixture's own reference goes after this


@pytest.fixture
def sidecars(own: OwnFiles) -> Sidecars:
    return Sidecars(own, fsync=True)


def only_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / ".tiered_store/meta").iterdir()
    return path


def test_the_format_is_what_it_was() -> None:
    assert encode("a/b", SAID) == GOLDEN
    assert decode(GOLDEN, "a/b") == SAID


@pytest.mark.parametrize(
    "said", [PutHeaders(), PutHeaders(""), PutHeaders(None, {"a": ""}), PutHeaders("x", {"\n": "\0"})]
)
def test_there_and_back(said: PutHeaders) -> None:
    assert decode(encode("name", said), "name") == said


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "not a sidecar"),
        (b"\0" * 100, "not a sidecar"),
        (GOLDEN.replace(b"sidecar 1", b"sidecar 2"), "its format is b'2'"),
        (GOLDEN[:-10], "checksum"),
        (GOLDEN.replace(b'"7"', b'"8"'), "checksum"),
        (GOLDEN[: GOLDEN.index(b"\n")], "checksum"),
    ],
)
def test_what_is_wrong_is_named(raw: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        decode(raw, "a/b")


def sealed(text: bytes) -> bytes:
    """A sidecar whose checksum is right, whatever it says."""
    return b"tiered_store sidecar 1 %08x\n%s\n" % (zlib.crc32(text), text)


def saying(**said: object) -> bytes:
    return sealed(json.dumps({"name": "a/b", "metadata": {}, **said}).encode())


WRONG = [
    (sealed(b"null"), "not an object"),
    (sealed(b'["name"]'), "not an object"),
    (sealed(b"[" * 100_000), "nested"),
    (sealed(b"{"), "Expecting"),
    (sealed(b"\xff"), "utf-8"),
    (sealed(b"{}"), "another object"),
    (sealed(b'{"name": "a/b"}'), "its metadata"),
    (saying(metadata=None), "its metadata"),
    (saying(metadata=["a"]), "its metadata"),
    (saying(metadata={"a": 5}), "its metadata"),
    (saying(metadata={"a": None}), "its metadata"),
    (saying(content_type=7), "its content type"),
    (saying(content_type=["text/plain"]), "its content type"),
    (saying(content_type="lone \ud800"), "surrogates"),
    (saying(metadata={"a": "lone \ud800"}), "surrogates"),
    (saying(metadata={"lone \udc80": ""}), "surrogates"),
    (saying(content_type="x" * 49_153), "more than 49152 bytes"),
    (saying(metadata={"a": "ü" * 24_575}), "more than 49152 bytes"),
    (saying(metadata={f"{i:x}": "" for i in range(8_000)}), "more than 49152 bytes"),
]


@pytest.mark.parametrize(("raw", "complaint"), WRONG)
def test_what_is_wrong_behind_a_right_checksum_is_named(raw: bytes, complaint: str) -> None:
    with pytest.raises((ValueError, TypeError), match=complaint):
        decode(raw, "a/b")


@pytest.mark.parametrize(
    "most", [PutHeaders("\0" * 49_152), PutHeaders(None, {"a": "x" * 49_147}), PutHeaders("x", {"\0\1": "\0" * 49_145})]
)
def test_the_most_that_a_sidecar_holds_fits_a_message(sidecars: Sidecars, most: PutHeaders) -> None:
    name = "n" * MAX_KEY_BYTES
    sidecars.save(name, VERSION, most)
    assert sidecars.load(name, VERSION) == most
    info = ObjectInfo(name, 1, VERSION, most.content_type, most.metadata)
    assert decode_info(encode_info(info)) == (info, "")
    with pytest.raises(TooLarge):
        encode(name, PutHeaders((most.content_type or "") + "x", most.metadata))


def test_a_sidecar_of_another_name() -> None:
    with pytest.raises(ValueError, match="another object"):
        decode(GOLDEN, "a/c")


def test_too_much_metadata() -> None:
    with pytest.raises(TooLarge) as caught:
        encode("a", PutHeaders(None, {"a": "x" * 300_000}))
    assert caught.value.key == "a"


def test_the_version_is_inode_size_and_mtime(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 1024)
    os.utime(path, ns=(0, 0xABCDEF0123456789 >> 4))
    assert version_of(path.stat()) == f"{path.stat().st_ino:x}-400-abcdef012345678"
    parent = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "link").symlink_to("f")
    assert version_at(parent, "f") == version_of(path.stat())
    assert [version_at(parent, leaf) for leaf in ("gone", "f/x", "link", ".", "n" * 300)] == [None] * 5
    os.close(parent)
    with pytest.raises(OSError, match="Bad file descriptor"):
        version_at(parent, "f")


def test_save_and_load(sidecars: Sidecars, tmp_path: Path) -> None:
    assert sidecars.load("a/b", VERSION) is None
    sidecars.save("a/b", VERSION, SAID)
    assert sidecars.load("a/b", VERSION) == SAID
    assert sidecars.load("a/b", VERSION + "0") is None
    assert sidecars.load("a/c", VERSION) is None
    assert only_file(tmp_path).read_bytes() == GOLDEN
    assert (tmp_path / ".tiered_store").stat().st_mode & 0o777 == 0o700


def test_names_fit_a_file_system(sidecars: Sidecars, tmp_path: Path) -> None:
    name = "n" * 1024
    sidecars.save(name, "f" * 16 + "-" + "f" * 16 + "-" + "f" * 16, SAID)
    assert len(only_file(tmp_path).name) < 100


def test_remove(sidecars: Sidecars, tmp_path: Path) -> None:
    sidecars.remove("a/b", VERSION)  # there is not even a directory
    sidecars.save("a/b", VERSION, SAID)
    sidecars.remove("a/c", VERSION)
    assert sidecars.load("a/b", VERSION) == SAID
    sidecars.remove("a/b", VERSION)
    assert sidecars.load("a/b", VERSION) is None


def test_sidecars_that_another_process_begins_to_write(sidecars: Sidecars, tmp_path: Path) -> None:
    assert sidecars.load("a/b", VERSION) is None
    other = Sidecars(OwnFiles(Descriptor(os.open(tmp_path, os.O_RDONLY))), fsync=False)
    other.save("a/b", VERSION, SAID)
    assert sidecars.load("a/b", VERSION) == SAID


@pytest.mark.parametrize(
    "raw", [b"", b"garbage", GOLDEN[:50], GOLDEN.replace(b"sidecar 1", b"sidecar 9"), *(raw for raw, _ in WRONG)]
)
def test_a_corrupt_one_is_logged_once_and_says_nothing(
    sidecars: Sidecars, tmp_path: Path, caplog: pytest.LogCaptureFixture, raw: bytes
) -> None:
    sidecars.save("a/b", VERSION, SAID)
    only_file(tmp_path).write_bytes(raw)
    for _ in range(3):
        assert sidecars.load("a/b", VERSION) == PutHeaders()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "'a/b'" in caplog.text
    assert only_file(tmp_path).name in caplog.text


def test_what_was_logged_is_not_remembered_without_bound(sidecars: Sidecars) -> None:
    for i in range(1030):
        name = str(i)
        sidecars._report(name, name, "a fault")
    assert len(sidecars._reported) == 6


def test_a_link_in_place_of_a_sidecar_is_not_followed(sidecars: Sidecars, tmp_path: Path) -> None:
    sidecars.save("a/b", VERSION, SAID)
    path = only_file(tmp_path)
    (tmp_path / "elsewhere").write_bytes(GOLDEN)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        sidecars.load("a/b", VERSION)


class TestOldOnes:
    def test_none(self, sidecars: Sidecars) -> None:
        assert list(sidecars.old_ones(0)) == []

    def test_only_after_an_hour_and_only_readable_ones(self, sidecars: Sidecars, tmp_path: Path) -> None:
        for name in ("a/b", "a/c", "d", "e"):
            sidecars.save(name, VERSION, SAID)
        meta = tmp_path / ".tiered_store/meta"
        (meta / "not-ours").write_bytes(b"x")
        (meta / "list.1-2-3").write_bytes(sealed(b"[]"))
        (meta / "number.1-2-3").write_bytes(saying(name=5))
        (meta / "deep.1-2-3").write_bytes(sealed(b"[" * 100_000))
        (meta / "broken.1-2-3").write_bytes(b"line\n{")
        (meta / "misnamed.1-2-3").write_bytes(GOLDEN)
        now = max(path.stat().st_mtime_ns for path in meta.iterdir())
        assert list(sidecars.old_ones(now + HOUR_NS // 2)) == []
        found = list(sidecars.old_ones(now + HOUR_NS + 1))
        assert {orphan for orphan in found if orphan} == {(name, VERSION) for name in ("a/b", "a/c", "d", "e")}

    def test_in_slices(self, sidecars: Sidecars) -> None:
        quick = Sidecars(sidecars._own, fsync=False)
        for i in range(600):
            quick.save(str(i), VERSION, SAID)
        assert list(sidecars.old_ones(0)) == [None, None]
