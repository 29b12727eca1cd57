"""docs/protocol.md says what the code says: every opcode, flag and status code, the same numbers, both ways."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.wire import GOLDEN
from tiered_store.errors import StoreError
from tiered_store.protocol.batches import MAX_BATCH_KEYS
from tiered_store.protocol.frames import (
    DATA_MAX_BYTES,
    HEAD_MAX_BYTES,
    MAX_FRAME_BYTES,
    STREAM_WINDOW_BYTES,
    Flag,
    Opcode,
)
from tiered_store.protocol.messages import MAGIC, VERSION
from tiered_store.protocol.status import error_of_status, status_of_error
from tiered_store.servers.limits import NativeLimits

TEXT = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()


def section(title: str) -> str:
    """From one heading to the next of the same or a higher level."""
    level, rest = re.search(rf"^(#+) {re.escape(title)}\n(.*)", TEXT, re.MULTILINE | re.DOTALL).groups()  # type: ignore[union-attr]
    return re.split(rf"^#{{1,{len(level)}}} ", rest, flags=re.MULTILINE)[0]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_opcodes() -> None:
    documented = {name: (int(code, 16), sender) for code, name, sender, _ in rows("Opcodes")}
    assert {name: code for name, (code, _) in documented.items()} == {o.name: int(o) for o in Opcode}
    for opcode in Opcode:
        sender = documented[opcode.name][1]
        expected = "server" if opcode >= Opcode.WELCOME else "both" if opcode in {0x40, 0x41, 0x42} else "client"
        assert sender == expected, opcode


def test_flags() -> None:
    documented = {name: int(bit, 16) for bit, name, _, _ in rows("Flags")}
    assert documented == {name: value for name, value in vars(Flag).items() if not name.startswith("_")}
    opcodes = {name for _, _, on, _ in rows("Flags") for name in re.findall(r"[A-Z_]+", on)}
    assert opcodes <= {opcode.name for opcode in Opcode}


def test_status_codes() -> None:
    documented = {int(code): name for code, name, _ in rows("Errors")}
    known = {code: type(error_of_status(code, "")) for code in range(256)}
    assert documented == {code: cls.__name__ for code, cls in known.items() if cls is not StoreError or code == 255}
    for code, cls in known.items():
        if code in documented:
            assert status_of_error(cls("")) == code


def test_every_request_has_a_final_reply() -> None:
    documented = [
        name for requests, _ in rows("Requests, replies and ids") for name in re.findall(r"[A-Z_]+", requests)
    ]
    assert sorted(documented) == sorted(o.name for o in Opcode if o < Opcode.DATA and o != Opcode.HELLO)


@pytest.mark.parametrize(
    ("title", "number"),
    [
        ("Frames", MAX_FRAME_BYTES),
        ("Limits", MAX_FRAME_BYTES),
        ("Limits", HEAD_MAX_BYTES),
        ("Streams and flow control", STREAM_WINDOW_BYTES),
        ("Streams and flow control", DATA_MAX_BYTES),
        ("Batches", MAX_BATCH_KEYS),
        ("Limits", NativeLimits().max_in_flight),
    ],
)
def test_numbers(title: str, number: int) -> None:
    assert f"{number:,}" in section(title)


def test_defaults_of_limits() -> None:
    limits = NativeLimits()
    text = section("Limits")
    assert f"`hello_timeout_s` ({limits.hello_timeout_s:g} s)" in text
    assert f"`stall_timeout_s` ({limits.stall_timeout_s:g} s)" in text
    assert f"`max_metadata_bytes` ({limits.max_metadata_bytes // 1024} KiB)" in text
    assert f"`write_buffer_bytes` ({limits.write_buffer_bytes // 2**20} MiB)" in text
    assert f"every {limits.progress_interval_s:g} seconds" in section("Uploads")


def test_version_and_magic() -> None:
    assert TEXT.startswith(f"# The native protocol, version {VERSION}\n")
    assert MAGIC.hex(" ") in section("Greeting")


EXAMPLES = re.findall(r"^```hex ([^\n]+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_examples_are_golden(name: str, text: str) -> None:
    """The hex digits of each line, up to the comment behind two or more spaces, are the golden frame."""
    columns = [re.split(r"\s{2,}", line)[0] for line in text.splitlines()]
    digits = "".join(column.replace(" ", "") for column in columns)
    assert digits == next(entry["hex"] for entry in GOLDEN if entry["name"] == name)


def test_the_contents_name_every_section() -> None:
    linked = re.findall(r"^- \[([^]]+)\]\(#([^)]+)\)", TEXT, re.MULTILINE)
    headings = re.findall(r"^## (.+)$", TEXT, re.MULTILINE)
    assert [title for title, _ in linked] == headings
    for title, anchor in linked:
        assert anchor == re.sub(r"[^a-z ]", "", title.lower()).replace(" ", "-")
