"""The caller's own functions: what they raise is theirs, and never taken for a failure of the daemon.

A source to read from, a function that takes pieces, one that watches the progress: a client calls them in
the middle of a conversation, where a ``ConnectionError`` means that the daemon has gone, a ``StoreError`` that it
has answered, and a ``StopIteration`` that the conversation is over. So their exceptions travel inside another one,
which nothing on the way looks for, and are unpacked at the border.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

__all__ = ["CallersErrors", "apart"]

P = ParamSpec("P")
T = TypeVar("T")


class _Packed(Exception):
    """An exception on its way through the client."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def apart(function: Callable[P, T]) -> Callable[P, T]:
    """The function, with its exceptions packed; to be called inside :class:`CallersErrors`.

    What is no ``Exception`` (an interrupt, a cancellation) is nobody's and stays as it is.
    """

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except _Packed:
            raise
        except Exception as error:
            raise _Packed(error) from None

    return call


class CallersErrors:
    """The border: what :func:`apart` has packed leaves the ``with`` block as it was raised."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, packed: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(packed, _Packed):
            return
        error = packed.error
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context  # raising has put the package here
            del error, packed, trace  # the traceback keeps this frame: a cycle
