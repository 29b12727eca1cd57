"""Messages of the Remote Execution API, written by hand: what Bazel keeps under ``/ac/`` and ``/cas/``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["action_result", "digest", "field", "number", "tree"]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(which: int, value: bytes) -> bytes:
    """A field of bytes, a text or a message."""
    return varint(which << 3 | 2) + varint(len(value)) + value


def number(which: int, value: int) -> bytes:
    """A field that is a number."""
    return varint(which << 3) + varint(value)


def digest(name: str, size: int = 1) -> bytes:
    return field(1, name.encode()) + number(2, size)


def action_result(
    files: Mapping[str, str] = {},
    trees: Mapping[str, str] = {},
    stdout: str = "",
    stderr: str = "",
    exit_code: int = 0,
) -> bytes:
    """An action result, by digest of each path."""
    parts = [field(2, field(1, path.encode()) + field(2, digest(name)) + number(4, 1)) for path, name in files.items()]
    parts += [field(3, field(1, path.encode()) + field(3, digest(name))) for path, name in trees.items()]
    parts += [number(4, exit_code)] if exit_code else []
    parts += [field(6, digest(stdout))] if stdout else []
    parts += [field(8, digest(stderr))] if stderr else []
    parts.append(field(9, field(1, b"worker") + field(2, number(1, 1_700_000_000))))
    return b"".join(parts)


def tree(root: Iterable[str], children: Iterable[Iterable[str]] = ()) -> bytes:
    """A tree whose directories have files with these digests."""

    def directory(names: Iterable[str]) -> bytes:
        files = [field(1, field(1, f"f{i}".encode()) + field(2, digest(name))) for i, name in enumerate(names)]
        below = field(2, field(1, b"d") + field(2, digest("d" * 64)))
        link = field(3, field(1, b"l") + field(2, b"target"))
        return b"".join(files) + below + link

    return field(1, directory(root)) + b"".join(field(2, directory(names)) for names in children)
