"""The synchronous client: safe to share between threads, and to carry across a fork."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from tiered_store.client import downloads, operations
from tiered_store.client.address import socket_path_of
from tiered_store.client.arguments import check_timeout, check_waits, named, span_of
from tiered_store.client.availability import OnUnavailable, deadline_ms, is_callers_fault
from tiered_store.client.batching import key_batches, put_batches
from tiered_store.client.bodies import Progress, Source, View, bytes_of, upload_of_bytes, uploads_of_source
from tiered_store.client.callers import CallersErrors
from tiered_store.client.link import Link
from tiered_store.client.operations import Conversation, Received, Upload
from tiered_store.client.pool import Pool
from tiered_store.client.targets import OpenTarget, PieceTarget, target_of
from tiered_store.client.trees.sync import SyncTrees
from tiered_store.errors import DaemonUnavailable, DeadlineExceeded, NotFound, StoreError
from tiered_store.objects import INLINE_MAX_BYTES, ObjectInfo
from tiered_store.protocol.frames import Flag, Opcode
from tiered_store.protocol.messages import decode_info

__all__ = ["Client"]

T = TypeVar("T")
P = ParamSpec("P")

_PAGE = 1000


class Client(SyncTrees):
    """Talks to a daemon on this machine.

    All methods raise the errors of ``tiered_store.errors``. Any number of threads may share a client; a
    child process made by a fork opens connections of its own.

    Args:
        socket_path: the daemon's socket; by default ``$TIERED_STORE_SOCKET``, else the place where a
            daemon without configuration listens: the user's own, or the system's where only that exists.
        timeout_s: for each operation, above 0; None waits for ever. Transfers that stream may take longer as
            long as they move.
        reconnect_s: how long an operation tries to reach a daemon that has answered before, 0 or more; one that
            never has fails at once.
        on_unavailable: ``"error"`` raises when the daemon is dead or failing; ``"miss"`` makes reads
            misses and ignores writes, for builds that must not fail because of a cache.

    Raises:
        ValueError, TypeError: one of them cannot be meant.
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
        self._pool = Pool(self.socket_path, timeout_s, reconnect_s)
        self._deadline_ms = deadline_ms(timeout_s)
        self._is_lenient = on_unavailable == "miss"
        self._use = self._use_leniently if self._is_lenient else self._pool.use

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; operations in other threads end first."""
        self._pool.close()

    # -- driving conversations ----------------------------------------------------------------------

    def _use_leniently(self, work: Callable[Concatenate[Link, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As ``Pool.use``, but a failure of the daemon is a miss."""
        availability = self._pool.availability
        if availability.is_resting:
            raise NotFound("the daemon is unavailable")
        answers_before = availability.answers
        try:
            result = self._pool.use(work, *args, **kwargs)
        except StoreError as error:
            if is_callers_fault(error):
                availability.answered()
                raise
            if isinstance(error, DeadlineExceeded):
                availability.unanswered(answers_before, self._timeout_s or 0.0)
            raise NotFound(f"the daemon is unavailable: {error.message}") from error
        availability.answered()
        return result

    def _run(
        self,
        operation: Callable[Concatenate[int, P], Conversation[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        def work(link: Link) -> T:
            return link.run(operation(link.begin(), *args, **kwargs))

        return self._use(work)

    def _run_or(
        self,
        otherwise: T,
        operation: Callable[Concatenate[int, P], Conversation[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """As :meth:`_run`, with a value for the lenient client whose daemon is unavailable."""
        try:
            return self._run(operation, *args, **kwargs)
        except NotFound:
            if self._is_lenient:
                return otherwise
            raise

    # -- reading ------------------------------------------------------------------------------------

    def get(
        self,
        key: str,
        *,
        offset: int = 0,
        length: int | None = None,
        only_if_cached: bool = False,
        no_promote: bool = False,
    ) -> bytes:
        """The object's bytes, or the range ``[offset, offset + length)`` of them.

        Args:
            key: the object's key.
            offset: where to start.
            length: how many bytes at most; None for the rest.
            only_if_cached: do not ask the origin.
            no_promote: do not bring the object into faster tiers.

        Raises:
            NotFound, InvalidKey, IntegrityError, OriginUnavailable, DeadlineExceeded, DaemonUnavailable.
        """
        flags = self._flags(only_if_cached, no_promote)
        if offset or length is not None:
            return bytes_of(self._get(key, flags, span_of(offset, length)))
        answer = self._use(Link.fetch, key, flags, self._deadline_ms)
        return answer if isinstance(answer, bytes) else bytes_of(answer)

    def get_view(self, key: str, *, only_if_cached: bool = False, no_promote: bool = False) -> View:
        """The object's bytes without a copy: ``with store.get_view(key) as view: ...``.

        The memoryview is read-only; slices of it may outlive the block.
        """
        flags = self._flags(only_if_cached, no_promote)
        answer = self._use(Link.fetch, key, flags, self._deadline_ms, bare=False)
        assert isinstance(answer, Received)
        return View(answer)

    def _flags(self, only_if_cached: bool, no_promote: bool) -> int:
        flags: int = Flag.ACCEPT_DESCRIPTOR
        if only_if_cached:
            flags |= Flag.ONLY_IF_CACHED
        return flags | Flag.NO_PROMOTE if no_promote else flags

    def _get(self, key: str, flags: int, span: tuple[int, int | None] | None = None) -> Received:
        return self._run(downloads.get, key, flags=flags, span=span, deadline_ms=self._deadline_ms)

    def get_file(self, key: str, path: str | os.PathLike[str], *, progress: Progress | None = None) -> ObjectInfo:
        """Write the object to a file, which appears whole or not at all.

        A device or a pipe is written into instead, as the bytes come.

        Args:
            key: the object's key.
            path: a file there is replaced, keeping its permissions; where a symbolic link points, if it is one.
            progress: called with (bytes so far, total).

        Raises:
            OSError: the file cannot be written; it is named.
        """
        with CallersErrors():
            target = target_of(path, progress)
            try:
                info = self._get_target(key, target)
                target.commit()
                return info
            finally:
                target.abandon()

    def _get_target(self, key: str, target: OpenTarget | PieceTarget) -> ObjectInfo:
        flags = Flag.ACCEPT_DESCRIPTOR | Flag.STREAM
        received = self._run(downloads.get, key, flags=flags, sink=target.sink, may_restart=target.may_restart)
        target.take(received)
        return received.info

    def get_into(self, key: str, write: Callable[[bytes], object], *, progress: Progress | None = None) -> ObjectInfo:
        """Hand the object's bytes to a function, in pieces and in order, while they arrive.

        Args:
            key: the object's key.
            write: called with each piece; what it raises ends the read, and is raised here as it is.
            progress: called with (bytes so far, total).
        """
        target = PieceTarget(write, progress)

        def work(link: Link) -> ObjectInfo:
            flags = Flag.ACCEPT_DESCRIPTOR | Flag.STREAM
            conversation = downloads.get(
                link.begin(), key, flags=flags, sink=target.sink, may_restart=target.may_restart
            )
            received = link.run(conversation)
            target.take(received)
            return received.info

        with CallersErrors():
            return self._use(work)

    def get_many(self, keys: Iterable[str], *, only_if_cached: bool = False) -> dict[str, bytes]:
        """The objects that are there, by key, in few round trips; missing keys are left out."""
        flags = Flag.ONLY_IF_CACHED if only_if_cached else 0
        found: dict[str, bytes] = {}
        for batch in key_batches(keys):
            nothing: tuple[dict[str, bytes], list[str]] = ({}, [])
            some, large = self._run_or(nothing, operations.get_many, batch, flags=flags, deadline_ms=self._deadline_ms)
            found.update(some)
            for key in large:
                try:
                    found[key] = self.get(key, only_if_cached=only_if_cached)
                except NotFound:
                    continue
        return found

    def stat(self, key: str) -> ObjectInfo:
        """What is known of the object. Raises NotFound."""
        return self._run(operations.stat, key, deadline_ms=self._deadline_ms)

    def exists(self, key: str) -> bool:
        """Whether there is an object under this key."""
        return self.exists_many([key])[key]

    def exists_many(self, keys: Iterable[str]) -> dict[str, bool]:
        """For each key, whether there is an object."""
        answers: dict[str, bool] = {}
        for batch in key_batches(keys):
            missing = [False] * len(batch)
            flags = self._run_or(missing, operations.exists_many, batch, deadline_ms=self._deadline_ms)
            answers.update(zip(batch, flags, strict=True))
        return answers

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key starts with ``prefix``, in byte order of the key; fetched in pages."""
        cursor = b""
        while True:
            empty: tuple[list[ObjectInfo], bytes] = ([], b"")
            items, cursor = self._run_or(
                empty, operations.list_page, prefix, cursor, _PAGE, deadline_ms=self._deadline_ms
            )
            yield from items
            if not cursor:
                return

    # -- writing ------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: bytes | bytearray | memoryview,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Store bytes; returns when the origin has them durably.

        Raises:
            InvalidKey, KeyConflict, TooLarge, QuotaExceeded, OriginUnavailable, DaemonUnavailable.
        """
        if len(data) > INLINE_MAX_BYTES or data.__class__ is not bytes:
            return self._put(named(key), lambda: upload_of_bytes(data), content_type, metadata)
        described = dict(metadata) if metadata else {}
        head = operations.inline_head(key, data, content_type, described)
        try:
            frame = self._use(Link.ask, Opcode.PUT, head, data, self._deadline_ms, Opcode.INFO)
        except NotFound:
            if not self._is_lenient:
                raise
            return ObjectInfo(key, 0, "", content_type, described)
        return decode_info(frame.head)[0]

    def put_file(
        self,
        key: str,
        source: Source,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> ObjectInfo:
        """Store a file: a path, or a binary file object, which is read to its end.

        Raises:
            BlockingIOError: ``source`` is non-blocking and had nothing to give before its end; nothing is stored.
            What else ``source`` and ``progress`` raise is raised as it is. For the rest see :meth:`put`.
        """
        return self._put(named(key), uploads_of_source(source, progress), content_type, metadata)

    def _put(
        self,
        key: str | None,
        upload: Callable[[], Upload],
        content_type: str | None,
        metadata: Mapping[str, str] | None,
    ) -> ObjectInfo:
        described = dict(metadata or {})
        with CallersErrors():
            return self._run_or(
                ObjectInfo(key or "", 0, "", content_type, described),
                operations.put,
                key,
                upload,
                content_type=content_type,
                metadata=described,
                deadline_ms=self._deadline_ms,
            )

    def put_artifact(self, source: Source, *, content_type: str | None = None, progress: Progress | None = None) -> str:
        """Store bytes, a path or a file object under its sha256; gives the key ``sha256:<hex>``.

        The daemon computes the digest. A lenient client whose daemon is unavailable gives ``""``.
        """
        return self._put(None, uploads_of_source(source, progress), content_type, None).key

    def put_many(self, items: Mapping[str, bytes]) -> dict[str, ObjectInfo]:
        """Store many objects in few round trips. All are tried; then the first error is raised.

        Gives what was stored, by key: with a lenient client that is nothing while the daemon is unavailable.
        """
        stored: dict[str, ObjectInfo] = {}
        error: StoreError | None = None
        batches, large = put_batches(items)
        for batch in batches:
            ignored: list[ObjectInfo | StoreError] = []
            results = self._run_or(ignored, operations.put_many, batch, deadline_ms=self._deadline_ms)
            for (key, _), result in zip(batch, results, strict=False):
                if isinstance(result, ObjectInfo):
                    stored[key] = result
                elif not self._is_lenient or is_callers_fault(result):
                    error = error or result
        for key in large:
            try:
                stored[key] = self._run(
                    operations.put,
                    key,
                    partial(upload_of_bytes, items[key]),
                    content_type=None,
                    metadata={},
                    deadline_ms=self._deadline_ms,
                )
            except StoreError as problem:
                if not (self._is_lenient and isinstance(problem, NotFound)):
                    error = error or problem
        if error is not None:
            raise error
        return stored

    def copy(self, source: str, target: str) -> ObjectInfo:
        """Copy an object, inside the origin where it can."""
        return self._run(operations.copy, source, target, deadline_ms=self._deadline_ms)

    def delete(self, key: str) -> bool:
        """Remove an object from the origin and every tier; whether there was one."""
        return bool(self._run_or(0, operations.delete, key, deadline_ms=self._deadline_ms))

    def delete_prefix(self, prefix: str) -> int:
        """Remove all objects whose key starts with ``prefix``; how many there were."""
        return self._run_or(0, operations.delete_prefix, prefix)

    def flush(self, timeout_s: float | None = None) -> int:
        """Wait until all puts that the daemon has acknowledged, and not uploaded yet, are at the origin.

        Only keys whose policy says ``write_back`` have such puts. Gives how many there were.

        Args:
            timeout_s: how long to wait, in seconds; None has no limit.

        Raises:
            DeadlineExceeded: says what is left. DaemonUnavailable: also for a lenient client.
        """
        check_timeout(timeout_s)
        limit_ms = deadline_ms(timeout_s)
        return self._pool.use(lambda link: link.run(operations.flush(link.begin(), deadline_ms=limit_ms)))

    # -- the daemon ---------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """The daemon's numbers, by tier and in all."""
        return self._run(operations.stats)

    def ping(self) -> float:
        """A round trip; how long it took, in seconds.

        Raises:
            DaemonUnavailable: also for a lenient client.
        """
        started = time.perf_counter()
        try:
            self._pool.use(lambda link: link.run(operations.ping(link.begin())))
        except OSError as error:
            raise DaemonUnavailable(f"no answer from {self.socket_path}: {error}") from error
        self._pool.availability.answered()
        return time.perf_counter() - started
