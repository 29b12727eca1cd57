"""A short soak, and that it sees what it is there to see."""

import pytest

from tests.soak.__main__ import Soak
from tests.soak.model import ABSENT, Keys, body_of, version_of


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_half_a_minute_of_everything():
    findings = Soak(25, seed=1).run()
    assert not findings.wrong, "\n".join(findings.wrong)


def test_bytes_are_of_the_version_that_they_name_and_whole():
    data = body_of("a/b", 7)
    assert version_of("a/b", data) == 7
    assert version_of("a/c", data) is None
    assert version_of("a/b", data[:-1]) is None
    assert version_of("a/b", data + b"x") is None
    assert version_of("a/b", b"") is None


def test_what_may_be_read_follows_from_what_was_acknowledged():
    keys = Keys(["k/1", "k/2"])
    assert keys.is_right("k/1", None)
    keys.wrote("k/1", 1)
    assert keys.is_right("k/1", body_of("k/1", 1))
    assert not keys.is_right("k/1", None)
    keys.may_have_written("k/1", 2)
    assert keys.is_right("k/1", body_of("k/1", 1))
    assert keys.is_right("k/1", body_of("k/1", 2))
    assert not keys.is_right("k/1", body_of("k/1", 3))
    keys.may_have_written("k/1", ABSENT)
    assert keys.is_right("k/1", None)


def test_a_listing_has_what_must_be_there_and_nothing_else_in_order():
    keys = Keys(["k/1", "k/2", "k/3"])
    keys.wrote("k/1", 1)
    keys.may_have_written("k/2", 2)
    assert keys.is_right_listing(["k/1"])
    assert keys.is_right_listing(["k/1", "k/2"])
    assert not keys.is_right_listing(["k/2"])
    assert not keys.is_right_listing(["k/2", "k/1"])
    assert not keys.is_right_listing(["k/1", "k/3"])
