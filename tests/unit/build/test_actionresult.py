from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.reapi import action_result, digest, field, number, tree, varint
from tiered_store.build import actionresult
from tiered_store.build.actionresult import NamedByAction, read_action_result, read_tree

A, B, C, D = (letter * 64 for letter in "abcd")
RESULT = action_result({"out/a": A, "out/b": B}, {"out/d": C}, stdout=D, stderr=A, exit_code=1)


def test_what_an_action_result_names():
    assert read_action_result(RESULT) == NamedByAction((A, B, D, A, C), (C,))
    assert read_action_result(b"") == NamedByAction((), ())
    assert read_action_result(action_result()) == NamedByAction((), ())


def test_output_that_is_in_the_message_names_nothing():
    assert read_action_result(field(5, b"out") + field(7, b"err")) == NamedByAction((), ())


def test_a_directory_by_its_root_is_named():
    assert read_action_result(field(3, field(1, b"d") + field(5, digest(A)))) == NamedByAction((A,), ())


def test_a_digest_that_comes_twice_is_named_whichever_of_them_counts():
    twice = field(2, field(1, b"a") + field(2, digest(A)) + field(2, digest(B)) + field(2, b""))
    assert read_action_result(twice) == NamedByAction((A, B), ())
    twice = field(3, field(3, digest(A)) + field(3, b"") + field(5, digest(B)) + field(5, b""))
    assert read_action_result(twice) == NamedByAction((B, A), (A,))


def test_links_and_later_fields_are_passed_over():
    later = field(99, b"x") + number(98, 7) + varint(97 << 3 | 1) + bytes(8) + varint(96 << 3 | 5) + bytes(4)
    links = b"".join(field(which, field(1, b"l") + field(2, b"t")) for which in (10, 11, 12))
    assert read_action_result(RESULT + links + later) == read_action_result(RESULT)


@pytest.mark.parametrize(
    "body",
    [
        b"\xcc\xac\x01\x00 a result of ccache",
        b'{"version": 1}',
        b"\x1f\x8b\x08\x00",
        b"<html></html>",
        b"PK\x03\x04",
        RESULT[:-1],
        RESULT + b"\x00",
        number(2, 1),
        field(4, b"x"),
        field(6, number(2, 5)),
        field(6, field(1, A[:-1].encode()) + number(2, 1)),
        field(6, field(1, A.upper().encode())),
        field(6, digest(A) + b"\x80"),
        field(6, field(1, A.encode()) + number(2, 2**64 - 1)),
        varint(9 << 3 | 3),
        b"\x20\x80\x00",
        b"\x20" + b"\xff" * 10 + b"\x01",
        b"\x20" + b"\xff" * 9 + b"\x02",
        b"\x12\xff\xff\xff\xff\x0f",
        b"\x00",
    ],
    ids=repr,
)
def test_what_is_no_action_result(body):
    assert read_action_result(body) is None


def test_what_a_tree_names():
    assert read_tree(tree([A, B], [[C], [], [D]])) == (A, B, C, D)
    assert read_tree(b"") == ()


@pytest.mark.parametrize("body", [b"\x08", tree([A])[:-1], number(1, 1), field(1, field(1, number(2, 1)))])
def test_what_is_no_tree(body):
    with pytest.raises(ValueError):
        read_tree(body)


def test_too_many_names(monkeypatch):
    monkeypatch.setattr(actionresult, "NAMES_MAX", 2)
    with pytest.raises(OverflowError):
        read_action_result(RESULT)
    with pytest.raises(OverflowError):
        read_tree(tree([A, B], [[C]]))


@pytest.mark.parametrize("body", [b"\x20\x00", b"\x68\x00", b"\x12\x00", field(2, b"\x20\x00" * 5)], ids=repr)
def test_fields_that_name_nothing_are_counted_too(monkeypatch, body):
    monkeypatch.setattr(actionresult, "FIELDS_MAX", 12)
    assert read_action_result(body * 2) == NamedByAction((), ())
    with pytest.raises(OverflowError):
        read_action_result(body * 13)
    with pytest.raises(OverflowError):
        read_tree(field(1, field(3, b"") * 12))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_are_none(body):
    found = read_action_result(body)
    assert found is None or isinstance(found, NamedByAction)
    with contextlib.suppress(ValueError):
        read_tree(body)


_CUTS = st.integers(0, len(RESULT) - 1)


@given(_CUTS, st.integers(1, 255))
def test_a_flipped_byte_is_never_an_error_of_ours(position, flip):
    damaged = bytearray(RESULT)
    damaged[position] ^= flip
    found = read_action_result(bytes(damaged))
    assert found is None or all(len(name) == 64 for name in found.blobs)


@given(
    st.dictionaries(st.text(min_size=1, max_size=20), st.sampled_from([A, B, C, D]), max_size=20),
    st.dictionaries(st.text(min_size=1, max_size=20), st.sampled_from([A, B, C, D]), max_size=5),
    st.sampled_from(["", A, B]),
)
def test_all_that_was_written_is_named(files, trees, stdout):
    found = read_action_result(action_result(files, trees, stdout=stdout))
    assert found is not None
    assert sorted(found.blobs) == sorted([*files.values(), *trees.values(), *([stdout] if stdout else [])])
    assert found.trees == tuple(trees.values())
