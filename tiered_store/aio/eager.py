"""Starting a coroutine at once, in the turn of the event loop that asks for it.

Much work ends without ever waiting: a put whose origin is in memory, a question that a table answers. A
task for it would cost two turns of the loop, which is more than the work. So the coroutine is taken to its
first wait here, and only what has to wait becomes a task. (Python 3.12 has ``asyncio.eager_task_factory``
for this; uvloop and Python 3.11 have nothing of the kind.)

The rule for such a coroutine: up to its first wait it runs in no task, or in somebody else's, so it must not
ask for the current one. ``asyncio.timeout`` and ``asyncio.TaskGroup`` do; behind a wait they may be used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

__all__ = ["Finished", "Waiting", "begin"]

T = TypeVar("T")


@dataclass(slots=True)
class Finished(Generic[T]):
    """A coroutine that has ended already, with this result."""

    result: T


class Waiting(Coroutine[Any, Any, T]):
    """The rest of a coroutine that was begun; to be made a task, or awaited, in the same turn of the loop."""

    __slots__ = ("_awaited", "_work", "send")

    def __init__(self, work: Coroutine[Any, Any, T], awaited: Any) -> None:
        self._work = work
        self._awaited = awaited
        #: First gives what the work waits for to whoever drives it from now on; then it is the work's own.
        self.send: Callable[[Any], Any] = self._hand_over

    def _hand_over(self, _: None) -> Any:
        awaited, self._awaited = self._awaited, None
        self.send = self._work.send
        return awaited

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None, /) -> Any:
        """Raise an exception where the work waits; three arguments are the protocol's old form.

        A task that is cancelled before its first step does not know yet what the work waits for, so that
        is cancelled here, as a task would.
        """
        if isinstance(self._awaited, asyncio.Future):
            self._awaited.cancel()
        self._hand_over(None)
        try:
            return self._work.throw(kind if value is None else value)
        finally:  # the exception's traceback holds this frame; were it held here too, only the collector would end it
            del kind, value

    def close(self) -> None:
        """End the work where it waits."""
        self._awaited = None
        self._work.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return cast("Generator[Any, Any, T]", self)

    def __iter__(self) -> Waiting[T]:
        return self

    def __next__(self) -> Any:
        return self.send(None)


def begin(work: Coroutine[Any, Any, T]) -> Finished[T] | Waiting[T]:
    """Take a coroutine to its end, or to its first wait if that comes before. Raises what it raises."""
    try:
        awaited = work.send(None)
    except StopIteration as end:
        return Finished(end.value)
    return Waiting(work, awaited)
