"""The asyncio client: one connection, any number of requests in flight on it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from tiered_store.client import downloads, operations
from tiered_store.client.address import socket_path_of
from tiered_store.client.arguments import check_timeout, check_waits, named, span_of
from tiered_store.client.availability import Availability, OnUnavailable, deadline_ms, is_callers_fault
from tiered_store.client.batching import key_batches, put_batches
from tiered_store.client.bodies import Progress, Source, View, bytes_of, upload_of_bytes, uploads_of_source
from tiered_store.client.callers import CallersErrors
from tiered_store.client.multiplexed import MultiplexedLink
from tiered_store.client.operations import Conversation, Received, Upload
from tiered_store.client.targets import OpenTarget, PieceTarget, target_of
from tiered_store.client.trees.asynchronous import AsyncTrees
from tiered_store.errors import DaemonUnavailable, DeadlineExceeded, NotFound, StoreError
from tiered_store.objects import INLINE_MAX_BYTES, ObjectInfo
from tiered_store.protocol.frames import Flag

__all__ = ["AsyncClient"]

T = TypeVar("T")
P = ParamSpec("P")

_PAGE = 1000
#: Up to here, reading a body out of its descriptor is quicker than a hop to a thread.
_READ_INLINE_MAX_BYTES = 1024 * 1024


class AsyncClient(AsyncTrees):
    """Talks to a daemon on this machine, from any number of tasks of one event loop.

    Methods, arguments and errors are those of ``Client``. A client used on another loop, or in a child
    after a fork, opens a connection of its own there.

    Args:
        socket_path, timeout_s, reconnect_s, on_unavailable: as for ``Client``.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        *,
        timeout_s: float | None = 30.0,
        reconnect_s: float = 2.0,
        on_unavailable: OnUnavailable = "error",
    ) -> None:
        check_waits(timeout_s, reconnect_s, on_unavailable)
        self.socket_path = socket_path_of(socket_path)
        self._timeout_s = timeout_s
        self._deadline_ms = deadline_ms(timeout_s)
        self._is_lenient = on_unavailable == "miss"
        self._availability = Availability(reconnect_s)
        self._link: MultiplexedLink | None = None
        self._connecting: asyncio.Task[MultiplexedLink] | None = None
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; operations under way fail."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        link, self._link = self._link, None
        if link is not None:
            link.close()

    # -- driving conversations ----------------------------------------------------------------------

    async def _connected(self) -> MultiplexedLink:
        """The link, made anew where the old one has gone; one attempt for all tasks that wait."""
        home = (os.getpid(), asyncio.get_running_loop())
        if self._home != home:
            if self._link is not None:
                self._link.abandon()
            self._link = self._connecting = None
            self._home = home
        link = self._link
        if link is not None and link.is_usable:
            return link
        if self._is_closed:
            raise DaemonUnavailable("this client has been closed")
        if self._connecting is None:
            self._connecting = home[1].create_task(self._connect())
            self._connecting.add_done_callback(self._connected_or_not)
        connecting = self._connecting
        await asyncio.wait([connecting])  # not the task itself: cancelling one caller must not cancel it
        if connecting.cancelled():
            raise DaemonUnavailable("this client has been closed")
        try:
            return connecting.result()
        finally:
            del connecting  # it keeps what it failed with, whose traceback keeps this frame: a cycle

    def _connected_or_not(self, task: asyncio.Task[MultiplexedLink]) -> None:
        if self._connecting is task:
            self._connecting = None
        if task.cancelled() or task.exception() is not None:
            return
        if self._is_closed:
            task.result().close()
        else:
            self._link = task.result()

    async def _connect(self) -> MultiplexedLink:
        try:
            link = await MultiplexedLink.connect(self.socket_path, self._timeout_s)
        except DaemonUnavailable:
            for delay in self._availability.delays():
                await asyncio.sleep(delay)
                try:
                    link = await MultiplexedLink.connect(self.socket_path, self._timeout_s)
                    break
                except DaemonUnavailable:
                    continue
            else:
                self._availability.failed()
                raise
        except DeadlineExceeded:  # it takes connections and greets nobody: trying again would take as long
            self._availability.failed(self._timeout_s or 0.0)
            raise
        self._availability.succeeded()
        return link

    async def _run(
        self,
        operation: Callable[Concatenate[int, P], Conversation[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        if not self._is_lenient:
            return await self._run_twice(operation, *args, **kwargs)
        availability = self._availability
        if availability.is_resting:
            raise NotFound("the daemon is unavailable")
        answers_before = availability.answers
        try:
            result = await self._run_twice(operation, *args, **kwargs)
        except StoreError as error:
            if is_callers_fault(error):
                availability.answered()
                raise
            if isinstance(error, DeadlineExceeded):
                availability.unanswered(answers_before, self._timeout_s or 0.0)
            raise NotFound(f"the daemon is unavailable: {error.message}") from error
        availability.answered()
        return result

    async def _run_twice(
        self,
        operation: Callable[Concatenate[int, P], Conversation[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run, and once more on a fresh link if the daemon went away under an old one.

        Every operation may be repeated: reads change nothing, and writes say what shall be there.
        """
        link = await self._connected()
        was_proven = link.is_proven
        try:
            return await link.run(operation, *args, **kwargs)
        except ConnectionError as error:
            if not was_proven:
                raise DaemonUnavailable(f"the daemon at {self.socket_path} closed the connection: {error}") from None
        except DaemonUnavailable:
            if link.is_usable or not was_proven:
                raise  # it was said of the request, and the same link would say it again
        link = await self._connected()
        try:
            return await link.run(operation, *args, **kwargs)
        except ConnectionError as error:
            raise DaemonUnavailable(f"the daemon at {self.socket_path} closed the connection: {error}") from None

    async def _run_or(
        self,
        otherwise: T,
        operation: Callable[Concatenate[int, P], Conversation[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """As :meth:`_run`, with a value for the lenient client whose daemon is unavailable."""
        try:
            return await self._run(operation, *args, **kwargs)
        except NotFound:
            if self._is_lenient:
                return otherwise
            raise

    # -- reading ------------------------------------------------------------------------------------

    async def get(
        self,
        key: str,
        *,
        offset: int = 0,
        length: int | None = None,
        only_if_cached: bool = False,
        no_promote: bool = False,
    ) -> bytes:
        """The object's bytes, or a range of them; see ``Client.get``."""
        span = None if offset == 0 and length is None else span_of(offset, length)
        received = await self._get(key, self._flags(only_if_cached, no_promote), span)
        if received.file is None or received.file.size <= _READ_INLINE_MAX_BYTES:
            return bytes_of(received)
        return await asyncio.to_thread(bytes_of, received)

    async def get_view(self, key: str, *, only_if_cached: bool = False, no_promote: bool = False) -> View:
        """The object's bytes without a copy: ``with await store.get_view(key) as view: ...``."""
        return View(await self._get(key, self._flags(only_if_cached, no_promote)))

    def _flags(self, only_if_cached: bool, no_promote: bool) -> int:
        flags = Flag.ACCEPT_DESCRIPTOR
        flags |= Flag.ONLY_IF_CACHED if only_if_cached else 0
        return flags | (Flag.NO_PROMOTE if no_promote else 0)

    async def _get(self, key: str, flags: int, span: tuple[int, int | None] | None = None) -> Received:
        return await self._run(downloads.get, key, flags=flags, span=span, deadline_ms=self._deadline_ms)

    async def get_file(self, key: str, path: str | os.PathLike[str], *, progress: Progress | None = None) -> ObjectInfo:
        """Write the object to a file, which appears whole or not at all; see ``Client.get_file``.

        ``progress`` may be called from another thread.
        """
        with CallersErrors():
            target = await asyncio.to_thread(target_of, path, progress)
            try:
                info = await self._get_target(key, target)
                await asyncio.to_thread(target.commit)
                return info
            finally:
                target.abandon()

    async def _get_target(self, key: str, target: OpenTarget | PieceTarget) -> ObjectInfo:
        flags = Flag.ACCEPT_DESCRIPTOR | Flag.STREAM
        received = await self._run(downloads.get, key, flags=flags, sink=target.sink, may_restart=target.may_restart)
        await asyncio.to_thread(target.take, received)
        return received.info

    async def get_into(
        self, key: str, write: Callable[[bytes], object], *, progress: Progress | None = None
    ) -> ObjectInfo:
        """Hand the object's bytes to a function, in pieces and in order; see ``Client.get_into``.

        ``write`` and ``progress`` are called on the event loop.
        """
        target = PieceTarget(write, progress)
        flags = Flag.ACCEPT_DESCRIPTOR | Flag.STREAM
        with CallersErrors():
            received = await self._run(
                downloads.get, key, flags=flags, sink=target.sink, may_restart=target.may_restart
            )
            target.take(received)
            return received.info

    async def get_many(self, keys: Iterable[str], *, only_if_cached: bool = False) -> dict[str, bytes]:
        """The objects that are there, by key; missing keys are left out."""
        flags = Flag.ONLY_IF_CACHED if only_if_cached else 0
        found: dict[str, bytes] = {}
        for batch in key_batches(keys):
            nothing: tuple[dict[str, bytes], list[str]] = ({}, [])
            some, large = await self._run_or(
                nothing, operations.get_many, batch, flags=flags, deadline_ms=self._deadline_ms
            )
            found.update(some)
            for key in large:
                try:
                    found[key] = await self.get(key, only_if_cached=only_if_cached)
                except NotFound:
                    continue
        return found

    async def stat(self, key: str) -> ObjectInfo:
        """What is known of the object. Raises NotFound."""
        return await self._run(operations.stat, key, deadline_ms=self._deadline_ms)

    async def exists(self, key: str) -> bool:
        """Whether there is an object under this key."""
        return (await self.exists_many([key]))[key]

    async def exists_many(self, keys: Iterable[str]) -> dict[str, bool]:
        """For each key, whether there is an object."""
        answers: dict[str, bool] = {}
        for batch in key_batches(keys):
            missing = [False] * len(batch)
            flags = await self._run_or(missing, operations.exists_many, batch, deadline_ms=self._deadline_ms)
            answers.update(zip(batch, flags, strict=True))
        return answers

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """All objects whose key starts with ``prefix``, in byte order: ``async for info in store.list()``."""
        cursor = b""
        while True:
            empty: tuple[list[ObjectInfo], bytes] = ([], b"")
            items, cursor = await self._run_or(
                empty, operations.list_page, prefix, cursor, _PAGE, deadline_ms=self._deadline_ms
            )
            for info in items:
                yield info
            if not cursor:
                return

    # -- writing ------------------------------------------------------------------------------------

    async def put(
        self,
        key: str,
        data: bytes | bytearray | memoryview,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Store bytes; see ``Client.put``."""
        return await self._put(named(key), lambda: upload_of_bytes(data), len(data), content_type, metadata)

    async def put_file(
        self,
        key: str,
        source: Source,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> ObjectInfo:
        """Store a file: a path, or a binary file object; read from another thread. See ``Client.put_file``."""
        return await self._put(named(key), uploads_of_source(source, progress), None, content_type, metadata)

    async def _put(
        self,
        key: str | None,
        make_upload: Callable[[], Upload],
        size: int | None,
        content_type: str | None,
        metadata: Mapping[str, str] | None,
    ) -> ObjectInfo:
        with CallersErrors():  # outside of what looks for NotFound: a source may raise that, too
            try:
                return await self._store(key, make_upload, size, content_type, metadata)
            except NotFound:
                if self._is_lenient:
                    return ObjectInfo(key or "", 0, "", content_type, dict(metadata or {}))
                raise

    async def _store(
        self,
        key: str | None,
        make_upload: Callable[[], Upload],
        size: int | None,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        if size is None or size > INLINE_MAX_BYTES:
            # Reading files and filling a memfd block, so they happen in a thread.
            first = [await asyncio.to_thread(make_upload)]
            original = make_upload
            make_upload = lambda: first.pop() if first else original()  # noqa: E731
        return await self._run(
            operations.put,
            key,
            make_upload,
            content_type=content_type,
            metadata=dict(metadata or {}),
            deadline_ms=self._deadline_ms,
        )

    async def put_artifact(
        self, source: Source, *, content_type: str | None = None, progress: Progress | None = None
    ) -> str:
        """Store bytes, a path or a file object under its sha256; see ``Client.put_artifact``."""
        info = await self._put(None, uploads_of_source(source, progress), None, content_type, None)
        return info.key

    async def put_many(self, items: Mapping[str, bytes]) -> dict[str, ObjectInfo]:
        """Store many objects in few round trips; see ``Client.put_many``."""
        stored: dict[str, ObjectInfo] = {}
        error: StoreError | None = None
        batches, large = put_batches(items)
        for batch in batches:
            ignored: list[ObjectInfo | StoreError] = []
            results = await self._run_or(ignored, operations.put_many, batch, deadline_ms=self._deadline_ms)
            for (key, _), result in zip(batch, results, strict=False):
                if isinstance(result, ObjectInfo):
                    stored[key] = result
                elif not self._is_lenient or is_callers_fault(result):
                    error = error or result
        for key in large:
            data = items[key]
            try:
                stored[key] = await self._store(key, partial(upload_of_bytes, data), len(data))
            except StoreError as problem:
                if not (self._is_lenient and isinstance(problem, NotFound)):
                    error = error or problem
        if error is not None:
            raise error
        return stored

    async def copy(self, source: str, target: str) -> ObjectInfo:
        """Copy an object, inside the origin where it can."""
        return await self._run(operations.copy, source, target, deadline_ms=self._deadline_ms)

    async def delete(self, key: str) -> bool:
        """Remove an object from the origin and every tier; whether there was one."""
        return bool(await self._run_or(0, operations.delete, key, deadline_ms=self._deadline_ms))

    async def delete_prefix(self, prefix: str) -> int:
        """Remove all objects whose key starts with ``prefix``; how many there were."""
        return await self._run_or(0, operations.delete_prefix, prefix)

    async def flush(self, timeout_s: float | None = None) -> int:
        """Wait until all puts that are acknowledged and not uploaded yet are at the origin; see ``Client.flush``."""
        check_timeout(timeout_s)
        return await self._run_twice(operations.flush, deadline_ms=deadline_ms(timeout_s))

    # -- the daemon ---------------------------------------------------------------------------------

    async def stats(self) -> dict[str, Any]:
        """The daemon's numbers, by tier and in all."""
        return await self._run(operations.stats)

    async def ping(self) -> float:
        """A round trip; how long it took, in seconds. Raises DaemonUnavailable, also for a lenient client."""
        started = time.perf_counter()
        await self._run_twice(operations.ping)
        self._availability.answered()
        return time.perf_counter() - started
