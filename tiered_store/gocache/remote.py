"""What a daemon has and gets: outputs fetched into the local directory, and uploaded from it in the background.

Threads around the synchronous client. Every fetch has a deadline, kept by whoever drives this from outside
(:meth:`Remote.expire`): a go command waits for its answer for ever, so it must not depend on a thread that may be
stuck. A daemon that fails is left alone for some seconds; a fetch is then a miss at once, and uploads wait. One that
answers, and whose origin fails, still has what its tiers and its journal have: fetches go on, and so do uploads until
one of them is refused.

Invariants: a fetched output has a name only after its sha256 was found right; an upload that waits is a name and three
numbers, its bytes stay in the local directory, and their number is bounded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from tiered_store.build.entry import Place, ToolEntry, decode_entry, encode_entry
from tiered_store.client.sync import Client
from tiered_store.errors import (
    DaemonUnavailable,
    DeadlineExceeded,
    NotFound,
    OriginUnavailable,
    ProtocolError,
    StoreError,
)
from tiered_store.gocache.local import LocalCache, Output
from tiered_store.objects import INLINE_MAX_BYTES

__all__ = ["Counters", "Remote"]

#: More than a go command asks at once on most machines: one request for each package it is busy with.
_FETCHERS: Final = 8
_UPLOADERS: Final = 2
#: Uploads of one turn: their small bodies, and their entries, travel in one frame each.
_BATCH: Final = 32
_BATCH_BYTES: Final = 512 * 1024
#: Some megabytes of names; a build with more outputs than a daemon takes loses the uploads beyond.
_WAITING_MAX: Final = 16_384
#: How long a daemon that has failed is left alone, in seconds: a refused connection costs nothing, an answer that was
#: waited for in vain costs the deadline each time.
_REST_S: Final = 3.0
_REST_PER_DEADLINE: Final = 4
#: So many fetches may end by their deadline, while others are answered, before the daemon is held to be the reason.
_SLOW_ONES: Final = 3
_PIECE_BYTES: Final = 1024 * 1024
_UNAVAILABLE: Final = (DaemonUnavailable, DeadlineExceeded, ProtocolError)


class Counters:
    """What happened, for whoever asks with ``--verbose``."""

    def __init__(self) -> None:
        self.fetched = 0  # outputs that a daemon had
        self.unanswered = 0  # fetches that ended by their deadline
        self.damaged = 0  # outputs that were not what their entry says
        self.uploaded = 0  # outputs that a daemon took
        self.dropped = 0  # uploads given up
        self.fault = ""  # the last reason why the daemon was left alone


class Remote:
    """One daemon, for one go command.

    Args:
        local: the directory of outputs.
        reader: for fetches; gives up when the deadline is over.
        writer: for uploads, which are nobody's wait.
        place: where the entries are.
        deadline_s: for each fetch, in seconds.
        may_write: whether anything is uploaded.
        found: told by a thread what was fetched for a request, or None for a miss; never twice for one request.
    """

    def __init__(
        self,
        local: LocalCache,
        reader: Client,
        writer: Client,
        place: Place,
        *,
        deadline_s: float,
        may_write: bool,
        found: Callable[[int, Output | None], None],
    ) -> None:
        self.counters = Counters()
        self._local = local
        self._place = place
        self._deadline_s = deadline_s
        self._may_write = may_write
        self._found = found
        self._rest_until = 0.0
        self._uploads_rest_until = 0.0
        self._is_closing = threading.Event()
        self._reader = reader
        self._writer = writer
        #: When each fetch under way is overdue, in order, and how many were fetched when it began. Whoever takes one
        #: out answers it.
        self._due: dict[int, tuple[float, int]] = {}
        #: What was answered because it was overdue, and still keeps a thread.
        self._overdue: set[int] = set()
        self._asked: SimpleQueue[tuple[int, str]] = SimpleQueue()
        self._fetchers = 0
        self._waiting: deque[tuple[str, Output]] = deque()
        self._changed = threading.Condition()
        self._busy_uploaders = 0
        self._uploaders = 0

    # -- fetching -----------------------------------------------------------------------------------

    def fetch(self, number: int, action: str) -> None:
        """Ask for what an action made; ``found`` is called once, from here where the daemon is left alone."""
        if self._rest_s:
            self._found(number, None)
            return
        self._due[number] = time.monotonic() + self._deadline_s, self.counters.fetched
        self._asked.put((number, action))
        # A thread that hangs serves nobody else; but no more of them than that are left behind.
        if self._fetchers < min(_FETCHERS, len(self._due)) + min(_FETCHERS, len(self._overdue)):
            self._fetchers += self._start(self._fetch_for_ever)

    def expire(self) -> float | None:
        """Answer what is overdue with a miss; how many seconds until the next is, or None where nothing is asked."""
        while self._due:
            try:
                number, (due, fetched_before) = next(iter(self._due.items()))
            except (StopIteration, RuntimeError):  # a thread has taken it, or changed the table just now
                continue
            left_s = due - time.monotonic()
            if left_s > 0:
                return left_s
            self._overdue.add(number)
            if self._due.pop(number, None) is None:
                self._overdue.discard(number)
            else:
                self._too_late(fetched_before, f"no answer within {self._deadline_s} s")
                self._found(number, None)
        return None

    def _fetch_for_ever(self) -> None:
        while True:
            number, action = self._asked.get()
            # One that is overdue has been answered, and one behind a failure need not wait for another.
            found = self._fetch_quietly(number, action) if number in self._due and not self._rest_s else None
            if self._due.pop(number, None) is None:
                self._overdue.discard(number)
            else:
                with contextlib.suppress(OSError):  # nobody reads replies any more, which the reader finds out, too
                    self._found(number, found)

    def _fetch_quietly(self, number: int, action: str) -> Output | None:
        fetched_before = self.counters.fetched
        try:
            return self._fetch(action)
        except NotFound:
            return None
        except DeadlineExceeded as error:
            if number in self._due:  # else that was noticed already
                self._too_late(fetched_before, str(error))
            return None
        except Exception as error:  # whatever it is, for a build it is a miss
            self._failed(error)
            return None

    def _fetch(self, action: str) -> Output | None:
        try:
            entry = decode_entry(self._reader.get(self._place.key(action)))
        except ValueError:
            self.counters.damaged += 1
            return None
        found = Output(entry.digest, entry.size, entry.stored_ns, is_uploaded=True)
        if not self._local.has(entry.digest, entry.size) and not self._fetch_content(entry):
            self.counters.damaged += 1
            return None
        self._local.note(action, found)
        self.counters.fetched += 1
        return found

    def _fetch_content(self, entry: ToolEntry) -> bool:
        """Bring the content here; whether it is what the entry says.

        A large one comes as a file of the daemon's, whose blocks the new one shares where the file system can, and
        which the kernel copies where it cannot.
        """
        fd, temporary = self._local.create()
        try:
            if entry.size <= INLINE_MAX_BYTES:
                data = self._reader.get(entry.content)
                _write_all(fd, data)
                digest = hashlib.sha256(data).hexdigest()
            else:
                os.close(fd)
                fd = -1
                self._reader.get_file(entry.content, temporary)
                fd = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
                digest = _digest_of(fd)
            if digest != entry.digest or os.fstat(fd).st_size != entry.size:
                return False
            owned, fd = fd, -1
            self._local.install(owned, temporary, entry.digest)
            return True
        finally:
            if fd >= 0:
                os.close(fd)
            self._local.discard(temporary)

    def _start(self, work: Callable[[], None]) -> bool:
        """Whether there is one more thread. Without any, fetches end by their deadline, and uploads are given up."""
        try:
            threading.Thread(target=work, daemon=True).start()
        except RuntimeError as error:  # this user may have no more of them
            self.counters.fault = str(error)
            return False
        return True

    def _failed(self, error: Exception) -> None:
        """Leave the daemon alone, if the error says something about it and not about the request."""
        if isinstance(error, _UNAVAILABLE):
            self._leave_alone(_REST_S, str(error))
        else:
            self.counters.fault = str(error)

    def _too_late(self, fetched_before: int, why: str) -> None:
        """Leave the daemon alone, unless it has answered others meanwhile: then only this one takes long."""
        self.counters.unanswered += 1
        if self.counters.fetched == fetched_before or self.counters.unanswered >= _SLOW_ONES:
            self._leave_alone(_REST_PER_DEADLINE * self._deadline_s, why)

    @property
    def _rest_s(self) -> float:
        """How long the daemon is still left alone, in seconds."""
        return max(0.0, self._rest_until - time.monotonic())

    def _leave_alone(self, seconds: float, why: str) -> None:
        self._rest_until = max(self._rest_until, time.monotonic() + seconds)
        self.counters.fault = why

    # -- uploading ----------------------------------------------------------------------------------

    def offer(self, action: str, output: Output) -> None:
        """Have an output of the local directory uploaded, some time."""
        if not self._may_write:
            return
        with self._changed:
            if len(self._waiting) >= _WAITING_MAX:
                self.counters.dropped += 1
                return
            self._waiting.append((action, output))
            if self._uploaders < min(_UPLOADERS, len(self._waiting)):
                self._uploaders += self._start(self._upload_for_ever)
            self._changed.notify()

    def drain(self, limit_s: float) -> None:
        """Wait until everything is uploaded, the daemon has failed, or the time is over."""
        until = time.monotonic() + limit_s
        with self._changed:
            self._is_closing.set()
            while self._waiting or self._busy_uploaders:
                left_s = until - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
            self.counters.dropped += len(self._waiting)
            self._waiting.clear()

    def _upload_for_ever(self) -> None:
        while True:
            batch = self._take()
            uploaded = self._upload_patiently(batch)
            for action, output in uploaded:
                self._local.uploaded(action, output.output)
            with self._changed:
                self._busy_uploaders -= 1
                self.counters.uploaded += len(uploaded)
                self.counters.dropped += len(batch) - len(uploaded)
                self._changed.notify_all()

    def _take(self) -> list[tuple[str, Output]]:
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            self._busy_uploaders += 1
            batch: list[tuple[str, Output]] = []
            size = 0
            while self._waiting and len(batch) < _BATCH and size <= _BATCH_BYTES:
                batch.append(self._waiting.popleft())
                size += batch[-1][1].size
            return batch

    @property
    def _uploads_rest_s(self) -> float:
        """How long nothing is uploaded, in seconds."""
        return max(self._rest_s, self._uploads_rest_until - time.monotonic())

    def _upload_patiently(self, batch: list[tuple[str, Output]]) -> list[tuple[str, Output]]:
        """Upload, once more where the daemon or its origin had gone for a while; what it has taken."""
        for _ in range(2):
            self._is_closing.wait(self._uploads_rest_s)
            if self._uploads_rest_s:
                return []  # the build is over, and does not wait for a daemon that fails
            try:
                self._upload(batch)
            except OriginUnavailable as error:
                self._uploads_rest_until = time.monotonic() + _REST_S
                self._failed(error)
            except _UNAVAILABLE as error:
                self._failed(error)
            except Exception as error:
                self.counters.fault = str(error)
                return self._upload_one_by_one(batch) if len(batch) > 1 else []
            else:
                return batch
        return []

    def _upload_one_by_one(self, batch: list[tuple[str, Output]]) -> list[tuple[str, Output]]:
        """One of them is at fault: too large, or changed by somebody since it was verified."""
        return [item for one in batch for item in self._upload_patiently([one])]

    def _upload(self, batch: list[tuple[str, Output]]) -> None:
        """Contents first: an entry never names what is not there."""
        small: dict[str, bytes] = {}
        for _, output in batch:
            path, key = self._local.path_of(output.output), f"sha256:{output.output}"
            if output.size <= INLINE_MAX_BYTES:
                small[key] = _read_all(path, output.size)
            elif self._writer.put_artifact(path) != key:
                raise StoreError(f"{path} was changed by somebody")
        if small:
            self._writer.put_many(small)
        entries: dict[str, bytes] = {
            self._place.key(action): encode_entry(ToolEntry(output.output, output.size, output.stored_ns))
            for action, output in batch
        }
        self._writer.put_many(entries)


def _digest_of(fd: int) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_PIECE_BYTES))
    done = 0
    while got := os.preadv(fd, [buffer], done):
        digest.update(buffer[:got])
        done += got
    return digest.hexdigest()


def _read_all(path: str, size: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, size + 1)
    finally:
        os.close(fd)
    if len(data) != size:
        raise StoreError(f"{path} was changed by somebody")
    return data


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
