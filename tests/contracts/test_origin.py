"""What every origin promises, one suite over all of them (see ``ORIGINS`` in tests/support/origins.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.origins import (
    BLIND,
    NOTHING_SAID,
    ORIGINS,
    SEVERAL_REQUESTS,
    file_body,
    list_all,
    memfd_body,
    pattern,
    put_all,
    read_all,
    read_object,
)
from tiered_store.errors import NotFound, OriginUnavailable
from tiered_store.objects import Body
from tiered_store.origins.base import CHUNK_BYTES, Origin, PutHeaders

KIB = 1024
SIZES = [0, 1, 1024, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1]
SIZES += [3 * CHUNK_BYTES + 17]
BODIES = ["bytes", "memfd", "file", "file-with-offset"]
DESCRIBED = PutHeaders("text/x-tést", {"user": "7", "ключ": "значение \N{GRINNING FACE}", "empty": ""})


@pytest.fixture(params=sorted(ORIGINS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def origin(kind: str, tmp_path: Path) -> AsyncIterator[Origin]:
    async with ORIGINS[kind](tmp_path) as origin:
        yield origin


def body_of(form: str, data: bytes, tmp_path: Path) -> Body:
    if form == "bytes":
        return data
    if form == "memfd":
        return memfd_body(data)
    return file_body(tmp_path / "body", data, offset=4096 if form == "file-with-offset" else 0)


class TestPutAndRead:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("form", BODIES)
    async def test_what_was_put_comes_back(self, origin: Origin, tmp_path: Path, form: str, size: int) -> None:
        data = pattern(size)
        put = await origin.put("a/b", body_of(form, data, tmp_path), DESCRIBED)
        info, read = await read_object(origin, "a/b")
        assert read == data
        assert info == put == await origin.stat("a/b")
        assert (info.key, info.size) == ("a/b", size)
        assert (info.content_type, info.metadata) == (DESCRIBED.content_type, DESCRIBED.metadata)

    async def test_nothing_said_is_nothing_known(self, origin: Origin) -> None:
        info = await origin.put("page.html", b"<p>", NOTHING_SAID)
        assert (info.content_type, info.metadata) == (None, {})
        assert await origin.stat("page.html") == info

    async def test_modified_is_about_now(self, origin: Origin, tmp_path: Path) -> None:
        (tmp_path / "before").touch()
        info = await origin.put("a", b"x", NOTHING_SAID)
        (tmp_path / "after").touch()
        second = 1_000_000_000
        assert (tmp_path / "before").stat().st_mtime_ns - second <= info.modified_ns
        assert info.modified_ns <= (tmp_path / "after").stat().st_mtime_ns + second

    async def test_a_large_object_comes_in_chunks(self, origin: Origin) -> None:
        data = pattern(2 * CHUNK_BYTES + 5)
        await origin.put("big", data, NOTHING_SAID)
        read = await origin.open("big")
        assert read is not None
        chunks = [chunk async for chunk in read.chunks()]
        assert all(0 < len(chunk) <= CHUNK_BYTES for chunk in chunks)
        assert len(chunks) <= 4
        assert b"".join(chunks) == data
        await read.close()

    async def test_an_overwrite_replaces_bytes_and_metadata(self, origin: Origin) -> None:
        await origin.put("a", b"first, longer", DESCRIBED)
        await origin.put("a", b"second", PutHeaders("text/plain", {"b": "2"}))
        info, data = await read_object(origin, "a")
        assert (data, info.size, info.content_type, info.metadata) == (b"second", 6, "text/plain", {"b": "2"})
        await origin.put("a", b"third", NOTHING_SAID)
        info, data = await read_object(origin, "a")
        assert (data, info.content_type, info.metadata) == (b"third", None, {})

    async def test_the_etag_changes_with_each_put(self, origin: Origin) -> None:
        etags = [(await origin.put("a", b"same", NOTHING_SAID)).etag for _ in range(200)]
        assert len(set(etags)) == 200
        assert all(0 < len(etag) <= 64 for etag in etags)
        assert (await origin.stat("a")).etag == etags[-1]

    async def test_later_changes_of_the_headers_change_nothing(self, origin: Origin) -> None:
        metadata = {"a": "1"}
        info = await origin.put("a", b"x", PutHeaders(None, metadata))
        metadata["a"] = "2"
        assert info.metadata == {"a": "1"}
        assert (await origin.stat("a")).metadata == {"a": "1"}

    async def test_a_name_of_the_greatest_length(self, origin: Origin) -> None:
        name = "/".join(["x" * 204] * 5)
        assert len(name) == 1024
        await origin.put(name, b"x", DESCRIBED)
        assert await read_all(origin, name) == b"x"
        assert await list_all(origin) == [name]
        assert await origin.delete([name]) == 1

    async def test_concurrent_puts_of_one_name_leave_one_of_them_whole(self, origin: Origin) -> None:
        sizes = [1, 1000, 70_000, CHUNK_BYTES + 3]
        puts = [
            origin.put("a/b", pattern(sizes[i % 4], i), PutHeaders(f"text/{i}", {"i": str(i)} if i % 2 else {}))
            for i in range(24)
        ]
        infos = await asyncio.gather(*puts)
        info, data = await read_object(origin, "a/b")
        winner = infos.index(info)
        assert data == pattern(sizes[winner % 4], winner)
        assert len({info.etag for info in infos}) == len(infos)


class TestRanges:
    @pytest.mark.parametrize(
        ("offset", "length"),
        [
            (0, None), (0, 1), (5, 10), (0, 0), (1, None), (CHUNK_BYTES - 1, 2), (CHUNK_BYTES, None),
            (10, CHUNK_BYTES), (10, CHUNK_BYTES + 1), (2 * CHUNK_BYTES + 9, 100), (2 * CHUNK_BYTES + 10, 5),
            (1 << 40, None), (1 << 40, 7), (3, 1 << 40),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("form", ["bytes", "memfd"])
    async def test_a_range_is_clipped(self, origin: Origin, form: str, offset: int, length: int | None) -> None:
        data = pattern(2 * CHUNK_BYTES + 10)
        await origin.put("a", data if form == "bytes" else memfd_body(data), NOTHING_SAID)
        info, read = await read_object(origin, "a", offset=offset, length=length)
        assert read == data[offset : None if length is None else offset + length]
        assert info.size == len(data)

    async def test_a_range_of_the_empty_object(self, origin: Origin) -> None:
        await origin.put("a", b"", NOTHING_SAID)
        assert await read_all(origin, "a", offset=3, length=4) == b""


class TestConditionalReads:
    async def test_the_same_etag_gives_nothing(self, origin: Origin) -> None:
        info = await origin.put("a", b"x", NOTHING_SAID)
        assert await origin.open("a", if_none_match=info.etag) is None

    async def test_another_etag_gives_the_object(self, origin: Origin) -> None:
        old = await origin.put("a", b"x", NOTHING_SAID)
        await origin.put("a", b"y", NOTHING_SAID)
        read = await origin.open("a", if_none_match=old.etag)
        assert read is not None
        assert [chunk async for chunk in read.chunks()] == [b"y"]
        await read.close()

    async def test_a_missing_object_is_missing(self, origin: Origin) -> None:
        with pytest.raises(NotFound):
            await origin.open("a", if_none_match="something")


class TestReadsInProgress:
    @pytest.mark.parametrize("form", ["bytes", "memfd"])
    async def test_a_read_is_of_one_version(self, origin: Origin, kind: str, form: str) -> None:
        """Or, where it comes in several requests, ends in an error."""
        data = pattern(3 * CHUNK_BYTES)
        await origin.put("a", data if form == "bytes" else memfd_body(data), DESCRIBED)
        read = await origin.open("a")
        assert read is not None
        chunks = read.chunks()
        parts = [await anext(chunks)]
        await origin.put("a", b"new", NOTHING_SAID)
        broken = ""
        try:
            parts += [chunk async for chunk in chunks]
        except OriginUnavailable as error:
            broken = error.message
        if broken:
            assert kind in BLIND
            assert "overwritten" in broken
        else:  # in several requests, too, if they were made in time
            assert b"".join(parts) == data
        assert read.info.metadata == DESCRIBED.metadata
        await read.close()

    async def test_an_object_deleted_while_it_is_read_is_read_to_its_end(self, origin: Origin, kind: str) -> None:
        """Or, where it comes in several requests, to an error."""
        data = pattern(SEVERAL_REQUESTS.get(kind, 2 * CHUNK_BYTES))
        await origin.put("a", data, NOTHING_SAID)
        read = await origin.open("a")
        assert read is not None
        await origin.delete(["a"])
        if kind in SEVERAL_REQUESTS:
            with pytest.raises(OriginUnavailable, match="deleted"):
                [chunk async for chunk in read.chunks()]
        else:
            assert b"".join([chunk async for chunk in read.chunks()]) == data
        await read.close()

    async def test_closing_twice_or_unread_is_fine(self, origin: Origin) -> None:
        await origin.put("a", b"x", NOTHING_SAID)
        read = await origin.open("a")
        assert read is not None
        await read.close()
        await read.close()

    async def test_a_closed_read_is_no_short_success(self, origin: Origin) -> None:
        await origin.put("a", pattern(2 * CHUNK_BYTES), NOTHING_SAID)
        read = await origin.open("a")
        assert read is not None
        chunks = read.chunks()
        await anext(chunks)
        await read.close()
        with pytest.raises(OriginUnavailable):
            await anext(chunks)


class TestMissing:
    async def test_reading_what_is_not_there(self, origin: Origin) -> None:
        with pytest.raises(NotFound) as caught:
            await origin.stat("a/b")
        assert caught.value.key == "a/b"
        with pytest.raises(NotFound):
            await origin.open("a/b")

    async def test_below_an_object_and_above_one_there_is_none(self, origin: Origin) -> None:
        await origin.put("a/b", b"x", NOTHING_SAID)
        for name in ("a", "a/b/c", "a/b/c/d"):
            with pytest.raises(NotFound):
                await origin.stat(name)
            with pytest.raises(NotFound):
                await origin.open(name)

    async def test_copying_what_is_not_there(self, origin: Origin) -> None:
        await origin.put("b", b"kept", NOTHING_SAID)
        with pytest.raises(NotFound) as caught:
            await origin.copy("a", "b")
        assert caught.value.key == "a"
        assert await read_all(origin, "b") == b"kept"


class TestDelete:
    async def test_counts_what_was_there(self, origin: Origin, kind: str) -> None:
        for name in ("a", "d/b", "d/c", "e/f/g"):
            await origin.put(name, b"x", DESCRIBED)
        asked = ["a", "d/b", "nothing", "e/f/g", "e/f", "d/b/c"]
        assert await origin.delete(asked) == (len(asked) if kind in BLIND else 3)
        assert await list_all(origin) == ["d/c"]
        with pytest.raises(NotFound):
            await origin.stat("a")

    async def test_nothing_to_delete(self, origin: Origin, kind: str) -> None:
        assert await origin.delete([]) == 0
        assert await origin.delete(["a"]) == 0
        assert await origin.delete(["a", "b/c"]) == (2 if kind in BLIND else 0)

    async def test_the_same_name_twice_counts_once(self, origin: Origin) -> None:
        await origin.put("a", b"x", NOTHING_SAID)
        assert await origin.delete(["a", "a"]) == 1

    async def test_metadata_does_not_outlive_the_object(self, origin: Origin) -> None:
        old = await origin.put("a", b"x", DESCRIBED)
        await origin.delete(["a"])
        new = await origin.put("a", b"x", NOTHING_SAID)
        assert new.etag != old.etag
        assert (await origin.stat("a")).metadata == {}

    async def test_more_names_than_one_piece_of_work_takes(self, origin: Origin, kind: str) -> None:
        names = [f"d{i % 70}/{i:04}" for i in range(1100)]
        await put_all(origin, names)
        assert await origin.delete([*names, "other"]) == (1101 if kind in BLIND else 1100)
        assert await list_all(origin) == []


NAMES = [
    "a", "a!", "a-b/x", "a.txt", "a/b", "a/b.c/d", "a/c", "a/é", "a0", "aa/b", "b/a", "b/a b",
    "artifacts/sha256/ab/ab" + "0" * 62, "z/~", "é", "\N{GRINNING FACE}", "\uffee/x", "ÿ",
]  # fmt: skip


class TestList:
    @pytest.fixture
    async def names(self, origin: Origin) -> list[str]:
        # "a" and "a/b" cannot both be in a directory; the order is tested with "a.txt", "a!" and "a0" as well.
        names = [name for name in NAMES if name != "a"]
        for name in names:
            await origin.put(name, b"x", NOTHING_SAID)
        return sorted(names, key=str.encode)

    @pytest.mark.parametrize("page", [1, 2, 3, 7, 17, 1000])
    async def test_byte_order_in_pages(self, origin: Origin, names: list[str], page: int) -> None:
        assert await list_all(origin, page=page) == names

    @pytest.mark.parametrize(
        "prefix", ["a", "a/", "a/b", "a.", "b/a", "b/a ", "a/b.c/", "x", "a/x/", "é", "\uffee", "a/b.c/d", "a/b.c/d/"]
    )
    @pytest.mark.parametrize("page", [1, 1000])
    async def test_a_prefix_may_end_anywhere(self, origin: Origin, names: list[str], prefix: str, page: int) -> None:
        assert await list_all(origin, prefix, page=page) == [name for name in names if name.startswith(prefix)]

    async def test_any_text_is_a_cursor(self, origin: Origin, names: list[str]) -> None:
        cursors = [*names, "", "a", "a/", "a/b.c", "a/b.c/", "b", "b/", "b/a!", "zzz", "\U0010ffff", " ", "aa/b/c"]
        for after in cursors:
            for prefix in ("", "a", "a/", "a/b", "b/a", "q"):
                listing = await origin.list(prefix, after=after, limit=1000)
                expected = [n for n in names if n.startswith(prefix) and n.encode() > after.encode()]
                assert [info.key for info in listing.items] == expected, (prefix, after)
                assert not listing.more

    async def test_more_tells_whether_there_is_more(self, origin: Origin, names: list[str]) -> None:
        assert (await origin.list("", limit=len(names) - 1)).more
        assert not (await origin.list("", limit=len(names))).more
        assert not (await origin.list("b/", limit=2)).more
        assert (await origin.list("b/", limit=1)).more

    async def test_items_say_all_that_is_known(self, origin: Origin, kind: str) -> None:
        infos = [await origin.put(f"d/{i}", pattern(i), DESCRIBED if i else NOTHING_SAID) for i in range(3)]
        listed = (await origin.list("d/")).items
        if kind in BLIND:
            assert [(info.key, info.size) for info in listed] == [(info.key, info.size) for info in infos]
            assert all(abs(a.modified_ns - b.modified_ns) < 10**10 for a, b in zip(listed, infos, strict=True))
        else:
            assert listed == infos

    async def test_an_empty_origin(self, origin: Origin) -> None:
        listing = await origin.list("")
        assert (listing.items, listing.more) == ([], False)

    async def test_a_page_sees_what_was_put_and_deleted_before_it(self, origin: Origin) -> None:
        expected: set[str] = set()
        for i in range(40):
            name = f"d/{i * 17 % 40:02}"
            await origin.put(name, b"", NOTHING_SAID)
            expected.add(name)
            if i % 3 == 2:
                gone = min(expected)
                await origin.delete([gone])
                expected.remove(gone)
            assert await list_all(origin, "d/") == sorted(expected)


class TestCopy:
    @pytest.mark.parametrize("size", [0, 1, 64 * KIB + 1, CHUNK_BYTES + 1])
    async def test_takes_bytes_type_and_metadata_along(self, origin: Origin, size: int) -> None:
        source = await origin.put("a/b", pattern(size), DESCRIBED)
        copied = await origin.copy("a/b", "c/d/e")
        info, data = await read_object(origin, "c/d/e")
        assert info == copied
        assert (info.key, info.size, info.content_type) == ("c/d/e", size, source.content_type)
        assert (data, info.metadata) == (pattern(size), source.metadata)
        assert await origin.stat("a/b") == source

    async def test_the_copy_stands_on_its_own(self, origin: Origin) -> None:
        await origin.put("a", b"one", NOTHING_SAID)
        await origin.copy("a", "b")
        await origin.put("a", b"two", NOTHING_SAID)
        assert await read_all(origin, "b") == b"one"
        await origin.delete(["a"])
        assert await read_all(origin, "b") == b"one"

    async def test_over_another_object_and_onto_itself(self, origin: Origin) -> None:
        await origin.put("a", b"one", DESCRIBED)
        old = await origin.put("b", b"other", PutHeaders("text/plain"))
        copied = await origin.copy("a", "b")
        assert copied.etag != old.etag
        assert await read_all(origin, "b") == b"one"
        again = await origin.copy("b", "b")
        info, data = await read_object(origin, "b")
        assert (info, data, info.metadata) == (again, b"one", DESCRIBED.metadata)


async def test_many_at_once(origin: Origin) -> None:
    """Puts, reads and deletes of neighbours do not disturb each other, nor the directories they share."""

    async def one(number: int) -> None:
        name = f"d{number % 3}/{number % 5}/{number}"
        for turn in range(5):
            info = await origin.put(name, pattern(number * 100, turn), PutHeaders(None, {"turn": str(turn)}))
            assert await read_object(origin, name) == (info, pattern(number * 100, turn))
            assert await origin.delete([name]) == 1

    await asyncio.gather(*(one(number) for number in range(40)))
    assert await list_all(origin) == []
