"""Whether an origin does what the daemon will ask of it: tried out with an object of a name that nobody else has.

Knows nothing but the protocol ``Origin`` and what its owner adds. Each step says what is wrong with it, in the words of
the origin's own errors; a step that cannot tell anything new is not tried. Invariant: however it ends, what was put is
removed, or the last step says what is left.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tiered_store.errors import NotFound, OriginUnavailable, StoreError
from tiered_store.origins.base import Origin, PutHeaders

__all__ = ["Probe", "Step"]

_DATA_BYTES: Final = 1000
_CLEAN_UP_S: Final = 10.0
#: Steps that tell nothing where there is no object.
_OF_WHAT_WAS_PUT: Final = frozenset({"copy", "delete", "delete several"})
_Work = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried.

    Attributes:
        name: what.
        fault: what is wrong; empty where nothing is.
        skipped: whether it was not tried, because of ``fault``.
        took_s: seconds.
    """

    name: str
    fault: str = ""
    skipped: bool = False
    took_s: float = 0.0


class _Wrong(Exception):
    """The origin did something, and not what it was asked for."""


class Probe:
    """A run of all steps.

    Args:
        origin: started.
        name: of the object to try it with; nothing has it. Another one, for a copy, is made from it.
        others: further objects to put, by what putting them shows; nothing has these names either.
        rehearsals: what else to try, by its name; leaves nothing behind.
        timeout_s: for all steps together; removing what was put may take a little longer.
    """

    def __init__(
        self,
        origin: Origin,
        name: str,
        *,
        others: Mapping[str, str],
        rehearsals: Mapping[str, _Work],
        timeout_s: float,
    ) -> None:
        self._origin = origin
        self._name = name
        self._copied = f"{name}-copy"
        self._others = others
        self._rehearsals = rehearsals
        self._timeout_s = timeout_s
        self._data = secrets.token_bytes(_DATA_BYTES)
        self._headers = PutHeaders("application/x-tiered-store-probe", {"probe": "1"})
        self._there: dict[str, None] = {}  # what may be at the origin now
        self._is_put = False
        self._faults: set[str] = set()
        self._hopeless = ""

    async def steps(self) -> AsyncGenerator[Step, None]:
        """Try everything, in order; to be closed (``aclosing``) where it is not read to its end."""
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        plan: dict[str, _Work] = {"put": self._put, "get": self._get, "stat": self._stat, "list": self._list}
        plan |= {"copy": self._copy, **self._rehearsals}
        plan |= {f"put {what}": self._putting(name) for what, name in self._others.items()}
        plan |= {"delete": self._delete, "delete several": self._delete_several}
        try:
            for name, work in plan.items():
                yield await self._step(name, work, deadline)
        finally:
            left = await self._clean_up()
        if left:
            yield Step("clean up", left)

    async def _step(self, name: str, work: _Work, deadline: float) -> Step:
        reason = self._hopeless or ("" if self._is_put or name not in _OF_WHAT_WAS_PUT else "nothing was put")
        if reason:
            return Step(name, reason, skipped=True)
        start = time.monotonic()
        fault = ""
        try:
            async with asyncio.timeout_at(deadline):
                await work()
        except TimeoutError:
            fault = f"no answer within {self._timeout_s:g} s, all steps together"
            self._hopeless = "there was no time left"
        except (StoreError, _Wrong) as error:
            fault = error.message if isinstance(error, StoreError) else str(error)
            if isinstance(error, OriginUnavailable) and name == "put":
                self._hopeless = "the origin cannot be used"
            elif fault in self._faults:  # two operations, and it names neither: credentials, for one
                self._hopeless = "it would fail in the same way"
            self._faults.add(fault)
        return Step(name, fault, took_s=time.monotonic() - start)

    async def _put(self) -> None:
        await self._put_at(self._name)
        self._is_put = True

    def _putting(self, name: str) -> _Work:
        async def put() -> None:
            await self._put_at(name)

        return put

    async def _put_at(self, name: str) -> None:
        self._there[name] = None  # before: an answer that does not come may be that of a put that took place
        try:
            info = await self._origin.put(name, self._data, self._headers)
        except StoreError as error:
            if not error.retryable:  # the origin said no
                del self._there[name]
            raise
        if info.size != len(self._data):
            raise _Wrong(f"the origin has {info.size} bytes of {len(self._data)}")

    async def _get(self) -> None:
        try:
            read = await self._origin.open(self._name)
        except NotFound:
            self._found(False)
            return
        assert read is not None  # only a conditional read answers None
        try:
            data = b"".join([chunk async for chunk in read.chunks()])
        finally:
            await read.close()
        if data != self._data:
            raise _Wrong("the origin gives other bytes than were put")

    async def _stat(self) -> None:
        try:
            info = await self._origin.stat(self._name)
        except NotFound:
            self._found(False)
            return
        if info.size != len(self._data):
            raise _Wrong(f"the origin says {info.size} bytes of {len(self._data)}")
        if (info.content_type, info.metadata) != (self._headers.content_type, self._headers.metadata):
            raise _Wrong("the origin does not keep content type and metadata")

    async def _list(self) -> None:
        listing = await self._origin.list(self._name)
        self._found(self._name in {info.key for info in listing.items})

    async def _copy(self) -> None:
        self._there[self._copied] = None
        await self._origin.copy(self._name, self._copied)

    async def _delete(self) -> None:
        await self._origin.delete([self._name])
        try:
            await self._origin.stat(self._name)
        except NotFound:
            self._there.pop(self._name, None)
            return
        raise _Wrong("the object is still there")

    async def _delete_several(self) -> None:
        """Also where there is one left: the request for many is another than that for one."""
        names = [*self._there, self._name, self._copied]
        await self._origin.delete(names)
        self._there.clear()

    def _found(self, is_there: bool) -> None:
        """That an object is not there is an answer, too, where it could not be put."""
        if not is_there and self._is_put:
            raise _Wrong("the origin does not show what was put")

    async def _clean_up(self) -> str:
        faults = []
        for name in self._there:
            try:
                async with asyncio.timeout(_CLEAN_UP_S):
                    await self._origin.delete([name])
            except (StoreError, TimeoutError) as error:
                reason = error.message if isinstance(error, StoreError) else "no answer"
                faults.append(f"{name} may be left at the origin: {reason}")
        self._there.clear()
        return "; ".join(faults)
