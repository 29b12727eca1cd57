"""Idle links to the daemon, for any number of threads, across forks.

A link belongs to one caller at a time; taking and giving back are single operations on a list, which the
interpreter makes atomic, so the hot path takes no lock.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from typing import Concatenate, Final, ParamSpec, TypeVar

from tiered_store.client.availability import Availability
from tiered_store.client.link import Link, breaks_link
from tiered_store.errors import DaemonUnavailable, DeadlineExceeded

__all__ = ["Pool"]

T = TypeVar("T")
P = ParamSpec("P")

#: Links kept while nobody uses them; a burst of threads may open more for a while.
_MAX_IDLE: Final = 16

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork() -> None:
    """In a child: its copies of the parent's links must never carry a byte."""
    for pool in list(_pools):
        pool.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Pool:
    """Links to one socket.

    Args:
        path: the daemon's socket.
        timeout_s: see ``Link``.
        reconnect_s: how long to try again when a daemon that was there has gone.
    """

    def __init__(self, path: str, timeout_s: float | None, reconnect_s: float) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self.availability = Availability(reconnect_s)
        self._idle: list[Link] = []
        self._is_closed = False
        _pools.add(self)

    def _connect(self) -> Link:
        if self._is_closed:
            raise DaemonUnavailable("this client has been closed")
        try:
            link = Link(self.path, self._timeout_s)
        except DaemonUnavailable:
            for delay in self.availability.delays():
                time.sleep(delay)
                try:
                    link = Link(self.path, self._timeout_s)
                    break
                except DaemonUnavailable:
                    continue
            else:
                self.availability.failed()
                raise
        except DeadlineExceeded:  # it takes connections and greets nobody: trying again would take as long
            self.availability.failed(self._timeout_s or 0.0)
            raise
        self.availability.succeeded()
        return link

    def give_back(self, link: Link) -> None:
        """Keep a link for the next caller, if it is in order."""
        if link.is_clean and len(self._idle) < _MAX_IDLE:
            link.is_proven = True
            self._idle.append(link)
            if self._is_closed:  # looked at last: whoever closes the pool in between finds the link, or we do
                self.forget()
        else:
            link.close()

    def use(self, work: Callable[Concatenate[Link, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an operation on a link, and once more on a fresh one if the daemon had gone in between.

        Every operation may be repeated: reads change nothing, and writes say what shall be there.
        """
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                link = self._connect()
            try:
                result = work(link, *args, **kwargs)
            except (ConnectionError, DaemonUnavailable) as error:
                link.close()
                if not link.is_proven:
                    if isinstance(error, DaemonUnavailable):
                        raise
                    message = f"the daemon at {self.path} closed the connection during the request"
                    raise DaemonUnavailable(message) from None
                self.forget()  # the others are as old, or older
                continue
            except BaseException as error:
                if breaks_link(error):
                    link.is_clean = False
                self.give_back(link)
                raise
            self.give_back(link)
            return result

    def forget(self) -> None:
        """Close this process's ends of all idle links."""
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                return
            link.close()

    def close(self) -> None:
        """Close idle links now, and busy ones when they are given back."""
        self._is_closed = True
        self.forget()
