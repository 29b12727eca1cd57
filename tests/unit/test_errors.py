import copy
import pickle

import pytest

from tiered_store import errors
from tiered_store.errors import IntegrityError, NotFound, OriginUnavailable, StoreError

RETRYABLE = {"OriginUnavailable", "DeadlineExceeded", "DaemonUnavailable"}


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "StoreError"])
def test_every_error_is_a_store_error_and_says_whether_to_retry(name: str) -> None:
    kind = getattr(errors, name)
    error = kind("a sentence", key="k")
    assert isinstance(error, StoreError)
    assert (error.message, error.key, str(error)) == ("a sentence", "k", "a sentence (key 'k')")
    assert error.retryable == (name in RETRYABLE)
    assert kind("a sentence", retryable=not error.retryable).retryable != error.retryable


def test_without_a_key_it_is_only_the_sentence() -> None:
    assert str(NotFound("no such object")) == "no such object"


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    for name in errors.__all__:
        assert name in errors.__doc__


def test_an_integrity_error_says_whose_bytes_they_were() -> None:
    error = IntegrityError("wrong", key="k", expected="aa", actual="bb", source="origin")
    assert (error.expected, error.actual, error.source) == ("aa", "bb", "origin")


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_can_be_copied_with_everything_they_say(again) -> None:  # type: ignore[no-untyped-def]
    for error in (
        IntegrityError("wrong", key="k", expected="aa", actual="bb", source="cdn"),
        OriginUnavailable("down", key="k", retryable=False),
    ):
        twin = again(error)
        assert type(twin) is type(error)
        assert twin.__dict__ == error.__dict__
        assert str(twin) == str(error)
