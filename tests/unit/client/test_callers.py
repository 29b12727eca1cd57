"""What a caller's function raises passes everything that looks for errors of the daemon, and comes out as it was."""

from __future__ import annotations

import gc
import traceback
from typing import NoReturn

import pytest

from tiered_store.client.callers import CallersErrors, apart
from tiered_store.errors import NotFound, StoreError

ERRORS = [ConnectionResetError("theirs"), NotFound("theirs"), StopIteration(5), KeyError("theirs"), BlockingIOError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_nothing_on_the_way_takes_it(error: Exception) -> None:
    def fail(_: int) -> NoReturn:
        raise error

    def way() -> None:
        try:
            apart(fail)(5)
        except (OSError, StoreError, StopIteration, LookupError):
            pytest.fail("taken for an error of the daemon")

    with pytest.raises(type(error)) as caught, CallersErrors():
        way()
    assert caught.value is error
    assert "fail" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def test_its_cause_and_what_it_was_raised_beside_stay() -> None:
    cause, context, error = ValueError("cause"), ValueError("context"), KeyError("theirs")

    def fail() -> NoReturn:
        try:
            raise context
        except ValueError:
            raise error from cause

    with pytest.raises(KeyError), CallersErrors():
        apart(fail)()
    assert (error.__cause__, error.__context__) == (cause, context)


def test_packed_twice_is_packed_once() -> None:
    def fail() -> NoReturn:
        raise KeyError

    with pytest.raises(KeyError), CallersErrors():
        apart(apart(fail))()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_is_left_alone(error: type[BaseException]) -> None:
    def fail() -> NoReturn:
        raise error

    with pytest.raises(error):
        apart(fail)()


def test_others_errors_pass_the_border() -> None:
    with pytest.raises(NotFound), CallersErrors():
        raise NotFound("the daemon's")


def test_results_and_arguments_pass() -> None:
    with CallersErrors():
        assert apart(divmod)(7, 2) == (3, 1)


def test_an_error_that_is_dropped_is_gone() -> None:
    """No cycle: what its frames hold, a descriptor say, goes at once and not when the collector comes by."""

    class Held:
        pass

    def fail() -> NoReturn:
        held = Held()
        raise KeyError(id(held))

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(KeyError) as caught, CallersErrors():
            apart(fail)()
        del caught
        assert not any(type(thing) is Held for thing in gc.get_objects())
    finally:
        gc.enable()
