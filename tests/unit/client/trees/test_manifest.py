"""The manifest: one way to write a tree down, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_store.client.trees import manifest
from tiered_store.client.trees.manifest import (
    HEADER,
    MAX_DEPTH,
    Enter,
    File,
    Leave,
    Link,
    ManifestWriter,
    Record,
    read_manifest,
)
from tiered_store.errors import IntegrityError

DIGEST = "ab" * 32
RAW = DIGEST.encode()
GOLDEN = HEADER + b"d.git\0u\0xabc\0".replace(b"xabc", b"x" + RAW + b" 0 a b\xff") + b"llink/../x\0"
RECORDS: list[Record] = [Enter(b".git"), Leave(), File(b"a b\xff", DIGEST, 0, True), Link(b"link", b"../x")]


def written(records: list[Record]) -> bytes:
    parts: list[bytes] = []
    writer = ManifestWriter(parts.append)
    for record in records:
        writer.add(record)
    return b"".join(parts)


def test_golden() -> None:
    assert written(RECORDS) == GOLDEN
    assert list(read_manifest([GOLDEN])) == RECORDS


@given(st.integers(1, len(GOLDEN)))
def test_it_may_be_cut_anywhere(size: int) -> None:
    assert list(read_manifest([GOLDEN[at : at + size] for at in range(0, len(GOLDEN), size)])) == RECORDS


def test_the_empty_tree() -> None:
    assert list(read_manifest([written([])])) == []


@given(st.integers(0, len(GOLDEN) - 1))
def test_a_part_of_it_is_none_or_another_tree(size: int) -> None:
    """What is cut off between two records at the root is a whole tree; anything else is refused."""
    part = GOLDEN[:size]
    if part in {HEADER, HEADER + b"d.git\0u\0", GOLDEN[: GOLDEN.index(b"llink")]}:
        list(read_manifest([part]))
        return
    with pytest.raises(IntegrityError):
        list(read_manifest([part]))


def file(name: bytes, size: bytes = b"1") -> bytes:
    return b"f" + RAW + b" " + size + b" " + name + b"\0"


HOSTILE = {
    "nothing": (b"", "begin"),
    "another format": (b"tiered_store tree 2\0", "begin"),
    "climbs": (HEADER + file(b".."), "cannot be one"),
    "stays": (HEADER + file(b"."), "cannot be one"),
    "climbs by a directory": (HEADER + b"d..\0u\0", "cannot be one"),
    "climbs by a link": (HEADER + b"l../x\0", "cannot be one"),
    "absolute": (HEADER + file(b"/etc/passwd"), "no record"),
    "a path": (HEADER + file(b"a/b"), "no record"),
    "a path of a directory": (HEADER + b"da/b\0u\0", "no record"),
    "no name": (HEADER + file(b""), "no record"),
    "no name of a directory": (HEADER + b"d\0u\0", "no record"),
    "NUL in a name": (HEADER + file(b"a\0b"), "no record"),
    "NUL in a target": (HEADER + b"la/b\0c\0", "no record"),
    "no target": (HEADER + b"la/\0", "no record"),
    "long name": (HEADER + file(b"a" * 256), "no record"),
    "long target": (HEADER + b"la/" + b"b" * 4096 + b"\0", "no record"),
    "twice": (HEADER + file(b"a") + file(b"a"), "twice"),
    "a link, then files through it": (HEADER + b"la//etc\0da\0" + file(b"b") + b"u\0", "twice"),
    "a directory, then a link in its place": (HEADER + b"da\0u\0la//etc\0", "twice"),
    "out of order": (HEADER + file(b"b") + file(b"a"), "order"),
    "out of order behind a directory": (HEADER + b"db\0u\0" + file(b"a"), "order"),
    "upper-case digest": (HEADER + b"f" + RAW.upper() + b" 1 a\0", "no record"),
    "short digest": (HEADER + b"f" + RAW[1:] + b" 1 a\0", "no record"),
    "leading zero": (HEADER + file(b"a", b"01"), "no record"),
    "negative": (HEADER + file(b"a", b"-1"), "no record"),
    "huge": (HEADER + file(b"a", b"9" * 19), "no file has"),
    "more digits": (HEADER + file(b"a", b"9" * 20), "no record"),
    "another kind": (HEADER + b"c1 3 null\0", "no record"),
    "empty record": (HEADER + b"\0", "no record"),
    "leaves the root": (HEADER + b"u\0", "not begun"),
    "does not leave": (HEADER + b"da\0", "in the middle of a directory"),
    "no end": (HEADER + file(b"a")[:-1], "in the middle of a record"),
    "a line end is part of the name": (HEADER + b"u\n\0", "no record"),
    "deep": (HEADER + b"da\0" * (MAX_DEPTH + 1) + b"u\0" * (MAX_DEPTH + 1), "deeper"),
    "a record without end": (HEADER + b"d" + b"a" * 100_000, "does not end"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name: str) -> None:
    raw, said = HOSTILE[name]
    for pieces in ([raw], [raw[:25], raw[25:]], [raw[at : at + 1] for at in range(len(raw[:9000]))] + [raw[9000:]]):
        with pytest.raises(IntegrityError, match=said):
            list(read_manifest(pieces))


def test_as_deep_as_may_be() -> None:
    raw = HEADER + b"da\0" * MAX_DEPTH + b"u\0" * MAX_DEPTH
    assert len(list(read_manifest([raw]))) == 2 * MAX_DEPTH


def test_too_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_ENTRIES", 2)
    assert len(list(read_manifest([HEADER + file(b"a") + file(b"b")]))) == 2
    with pytest.raises(IntegrityError, match="more than 2 entries"):
        list(read_manifest([HEADER + file(b"a") + file(b"b") + file(b"c")]))


def test_names_that_differ_in_case_only_are_refused_where_that_is_no_difference() -> None:
    for names in ((b"A", b"a"), (b"STRASSE", "straße".encode()), ("e\u0301".encode(), "é".encode())):
        raw = HEADER + b"".join(map(file, names))
        assert len(list(read_manifest([raw]))) == 2
        with pytest.raises(IntegrityError, match="folds case"):
            list(read_manifest([raw], folds_case=True))
    apart = HEADER + b"dA\0" + file(b"x") + b"u\0" + b"db\0" + file(b"X") + file(b"\xff") + b"u\0"
    assert len(list(read_manifest([apart], folds_case=True))) == 7


@pytest.mark.parametrize(
    "record",
    [File(b"..", DIGEST, 1, False), Enter(b"a/b"), Link(b"", b"x"), Link(b"a", b""), Enter(b"a" * 256), Leave()],
)
def test_what_could_not_be_read_is_not_written(record: Record) -> None:
    with pytest.raises(ValueError):
        written([record])


@given(st.binary(max_size=200))
def test_anything_is_read_or_refused(raw: bytes) -> None:
    for data in (raw, HEADER + raw):
        try:
            records = list(read_manifest([data]))
        except IntegrityError:
            continue
        assert written(records) == data
