"""What a Bazel action result names, read out of its bytes: enough of protobuf for that, and bounded.

The messages are those of the Remote Execution API, build.bazel.remote.execution.v2: ``ActionResult``, ``Tree`` and what
is in them; the numbers below are its fields'. Other tools keep bodies of their own kind under ``/ac/``, so a body is
taken for an action result only if it reads as one to its last byte: known fields of their own type, numbers as short as
they can be, digests that are digests. Fields that a later version may add are passed over. What reads as an action
result by accident does no harm unless it names a digest, which is 64 hex digits in the right place.

Pure; the cost is linear in the bytes, and bounded by ``NAMES_MAX`` and ``FIELDS_MAX``: whoever may write chooses what
is read here, and a message of nothing but empty fields would keep the interpreter busy for a minute. Nothing nests
deeper than the messages do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["EMPTY_DIGEST", "FIELDS_MAX", "NAMES_MAX", "NamedByAction", "read_action_result", "read_tree"]

#: The sha256 of no bytes at all, which always exists.
EMPTY_DIGEST: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#: The most digests that one message is read for.
NAMES_MAX: Final = 200_000
#: The most fields that one message is read for, with those of the messages in it: eight for each name, which has five.
FIELDS_MAX: Final = 8 * NAMES_MAX

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES: Final = {_FIXED64: 8, _FIXED32: 4}
_DIGEST: Final = re.compile(rb"[0-9a-f]{64}\Z")
_INT64_MAX: Final = 2**63

# Each known field's type. ActionResult: output_files, output_directories, exit_code, stdout, stderr (raw and digests),
# execution_metadata, three kinds of symbolic links.
_RESULT: Final = {
    2: _BYTES,
    3: _BYTES,
    4: _VARINT,
    5: _BYTES,
    6: _BYTES,
    7: _BYTES,
    8: _BYTES,
    9: _BYTES,
    10: _BYTES,
    11: _BYTES,
    12: _BYTES,
}
_OUTPUT_FILE: Final = {1: _BYTES, 2: _BYTES, 4: _VARINT, 5: _BYTES, 7: _BYTES}
_OUTPUT_DIRECTORY: Final = {1: _BYTES, 3: _BYTES, 4: _VARINT, 5: _BYTES}
_DIGEST_FIELDS: Final = {1: _BYTES, 2: _VARINT}
_TREE: Final = {1: _BYTES, 2: _BYTES}
_DIRECTORY: Final = {1: _BYTES, 2: _BYTES, 3: _BYTES, 5: _BYTES}
_FILE_NODE: Final = {1: _BYTES, 2: _BYTES, 4: _VARINT, 6: _BYTES}

_Field: TypeAlias = tuple[int, int | bytes]
#: As many items as fields may still be read.
_Budget: TypeAlias = Iterator[int]


@dataclass(frozen=True, slots=True)
class NamedByAction:
    """What an action result cannot be used without.

    Attributes:
        blobs: digests of files, of standard output and error, and of ``trees``.
        trees: digests of the messages that list the files of output directories (:func:`read_tree`).
    """

    blobs: tuple[str, ...]
    trees: tuple[str, ...]


def read_action_result(body: bytes) -> NamedByAction | None:
    """What an action result names; None for a body that is none.

    Raises:
        OverflowError: it may be one, and has more than ``FIELDS_MAX`` or names more than ``NAMES_MAX``.
    """
    budget = iter(range(FIELDS_MAX))
    blobs: list[str] = []
    trees: list[str] = []
    try:
        for number, value in _fields(body, _RESULT, budget):
            if number == 2:
                blobs += _of_output_file(value, budget)
            elif number == 3:
                of_trees, of_roots = _of_output_directory(value, budget)
                trees += of_trees
                blobs += of_roots
            elif number in {6, 8}:
                blobs += _digest(value, budget)
            _check_count(len(blobs) + len(trees))
    except ValueError:
        return None
    return NamedByAction((*blobs, *trees), tuple(trees))


def read_tree(body: bytes) -> tuple[str, ...]:
    """The digests of all files in a ``Tree``.

    Raises:
        ValueError: it is none. OverflowError: as :func:`read_action_result`.
    """
    budget = iter(range(FIELDS_MAX))
    names: list[str] = []
    for _, directory in _fields(body, _TREE, budget):
        for number, node in _fields(directory, _DIRECTORY, budget):
            if number == 1:
                for field, value in _fields(node, _FILE_NODE, budget):
                    if field == 2:
                        names += _digest(value, budget)
                _check_count(len(names))
    return tuple(names)


def _of_output_file(message: int | bytes, budget: _Budget) -> list[str]:
    found: list[str] = []
    for number, value in _fields(message, _OUTPUT_FILE, budget):
        if number == 2:
            found += _digest(value, budget)  # whichever of several a reader takes; with contents in the message, too
    return found


def _of_output_directory(message: int | bytes, budget: _Budget) -> tuple[list[str], list[str]]:
    trees: list[str] = []
    roots: list[str] = []
    for number, value in _fields(message, _OUTPUT_DIRECTORY, budget):
        if number == 3:
            trees += _digest(value, budget)
        elif number == 5:
            roots += _digest(value, budget)
    return trees, roots


def _digest(message: int | bytes, budget: _Budget) -> list[str]:
    """The hash in a ``Digest``; an empty message, which is the default, names nothing."""
    found: list[str] = []
    for number, value in _fields(message, _DIGEST_FIELDS, budget):
        if number == 1:
            if not isinstance(value, bytes) or not _DIGEST.match(value):
                raise ValueError("no sha256")
            found = [value.decode()]
        elif isinstance(value, int) and value >= _INT64_MAX:
            raise ValueError("a size below zero")
    if message and not found:
        raise ValueError("a digest without its hash")
    return found


def _check_count(count: int) -> None:
    if count > NAMES_MAX:
        raise OverflowError(f"more than {NAMES_MAX} digests")


def _fields(message: int | bytes, known: dict[int, int], budget: _Budget) -> Iterator[_Field]:
    """The known fields of a message, in their order; each field, known or not, takes an item of the budget.

    Raises:
        ValueError: these bytes are no such message. OverflowError: the budget is used up.
    """
    if not isinstance(message, bytes):
        raise ValueError("no message")  # noqa: TRY004 - a fault of the data
    position, end = 0, len(message)
    while position < end:
        if next(budget, None) is None:
            raise OverflowError(f"more than {FIELDS_MAX} fields")
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if not number or known.get(number, kind) != kind:
            raise ValueError("a field of another type")
        value: int | bytes
        if kind == _VARINT:
            value, position = _varint(message, position)
        else:
            if kind == _BYTES:
                size, position = _varint(message, position)
            elif kind in _FIXED_BYTES:
                size = _FIXED_BYTES[kind]
            else:
                raise ValueError("a group, or no type at all")
            if size > end - position:
                raise ValueError("a field that goes beyond its message")
            value = message[position : position + size] if number in known else b""
            position += size
        if number in known:
            yield number, value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """A number of at most 64 bits, and what follows it."""
    value = shift = 0
    while True:
        if position >= len(message):
            raise ValueError("the message ends inside a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
    if value >= 1 << 64 or (shift and not byte):
        raise ValueError("a number that is too large, or longer than it need be")
    return value, position
