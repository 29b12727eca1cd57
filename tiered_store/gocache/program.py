"""The program: reads what a go command asks, answers from the local directory, and asks a daemon for the rest.

One thread reads, and answers what is at hand at once. Whatever needs the daemon is done by others (``remote.py``),
which are loaded when the first file is missing or made. A put is answered when its file is in place; the daemon gets
it in the background.

Nothing that happens here fails a build: where the directory cannot be written, files are in a temporary one as long as
the go command runs, and where the daemon fails, they are missing there. Only input that is no such protocol ends it.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock

from tiered_store.gocache import protocol
from tiered_store.gocache.local import LocalCache, Output
from tiered_store.gocache.protocol import Malformed, Reader, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from tiered_store.gocache.options import Options
    from tiered_store.gocache.remote import Remote

__all__ = ["serve"]

DONE: Final = 0
UNUSABLE: Final = 1
MALFORMED: Final = 2
_READ_BYTES: Final = 64 * 1024  # what a pipe holds
#: An upload is nobody's wait.
_UPLOAD_TIMEOUT_S: Final = 30.0
#: How long a daemon that was there is looked for when it has gone: a restart takes half a second.
_RECONNECT_S: Final = 1.0


def serve(options: Options, socket_path: Callable[[], str | None], stdin: int = 0, stdout: int = 1) -> int:
    """Answer one go command until it closes; the exit code.

    Args:
        options: what the user said.
        socket_path: the daemon's socket, asked for when it is needed; None for the default.
        stdin: a descriptor to read requests from.
        stdout: a descriptor to write replies to; closed at the end.
    """
    try:
        program = _Program(options, socket_path, stdout)
    except OSError as error:
        _complain(f"neither {options.directory} nor a temporary directory can be used: {error}")
        return UNUSABLE
    try:
        os.write(stdout, protocol.greeting())
        program.run(stdin)
    except Malformed as error:
        _complain(f"standard input is not what a go command sends: {error}")
        return MALFORMED
    except BrokenPipeError:  # the go command has gone
        return DONE
    except KeyboardInterrupt:  # and so will it
        program.hurry()
        return 128 + 2
    finally:
        program.end()
    return DONE


class _Program:
    def __init__(self, options: Options, socket_path: Callable[[], str | None], stdout: int) -> None:
        self._options = options
        self._socket_path = socket_path
        self._stdout = stdout
        self._writing = allocate_lock()
        self._reader = Reader()
        self._put: _Put | None = None
        self._remote: Remote | None = None
        self._has_no_remote = False
        self._spill: LocalCache | None = None
        self._is_closed = False
        self._drain_s = options.drain_s
        self._gets = self._hits = self._puts = 0
        try:
            self._local = LocalCache(options.directory)
        except OSError as error:
            self._say(f"{options.directory} cannot be used ({error.strerror}): a temporary directory takes its place")
            self._local = self._spilled()
        #: JSON of what all paths of outputs begin with is the same: most of them need no second look.
        self._is_plain = protocol.quoted(self._local.directory) == b'"' + os.fsencode(self._local.directory) + b'"'

    # -- the conversation ---------------------------------------------------------------------------

    def run(self, stdin: int) -> None:
        """Answer until the go command closes, or its end of the pipe is closed."""
        while not self._is_closed:
            left_s = None if self._remote is None else self._remote.expire()
            if left_s is not None and not _is_readable(stdin, left_s):
                continue
            data = os.read(stdin, _READ_BYTES)
            if not data:
                if self._reader.is_midway:
                    raise Malformed("it ends in the middle of a request")
                return
            for event in self._reader.receive(data):
                if isinstance(event, Request):
                    self._answer(event)
                elif event is None:
                    self._finish_put()
                elif self._put is not None:
                    self._put.write(event)

    def _answer(self, request: Request) -> None:
        if request.command == "put":
            # Answered at the end of its body, which comes whatever is wrong with the request.
            self._put = _Put(request, self._local, self._spilled)
        elif request.command == "close":
            if self._remote is not None:
                self._remote.drain(self._drain_s)
            self._write(protocol.closed(request.number))
            self._is_closed = True
        elif request.command != "get":
            self._write(protocol.failed(request.number, f"unknown command {request.command!r}"))
        elif request.problem:
            self._write(protocol.failed(request.number, request.problem))
        else:
            self._get(request)

    def _get(self, request: Request) -> None:
        self._gets += 1
        found = self._local.find(request.action)
        if found is not None:
            self._hits += 1
            self._found(request.number, found)
            if not found.is_uploaded:
                self._offer(request.action, found)
            return
        remote = self._the_remote()
        if remote is None:
            self._write(protocol.miss(request.number))
        else:
            remote.fetch(request.number, request.action)

    def _found(self, number: int, found: Output | None) -> None:
        """Answer a get; in any thread."""
        if found is None:
            self._write(protocol.miss(number))
        else:
            path = self._json_path(self._local.path_of(found.output))
            self._write(protocol.hit(number, found.output, found.size, found.stored_ns, path))

    def _finish_put(self) -> None:
        put, self._put = self._put, None
        assert put is not None
        request = put.request
        self._puts += 1
        path = put.finish()
        if path is None:
            self._write(protocol.failed(request.number, put.problem))
            return
        if put.output is not None and put.is_new:
            self._offer(request.action, put.output)
        self._write(protocol.stored(request.number, self._json_path(path)))

    def _json_path(self, path: str) -> bytes:
        return b'"%b"' % path.encode() if self._is_plain else protocol.quoted(path)

    def _write(self, reply: bytes) -> None:
        with self._writing:
            while reply and self._stdout >= 0:
                reply = reply[os.write(self._stdout, reply) :]

    # -- the daemon ---------------------------------------------------------------------------------

    def _the_remote(self) -> Remote | None:
        """What talks to the daemon; None where no daemon can be there, so that nothing of a client need be loaded."""
        if self._remote is None and not self._has_no_remote:
            from tiered_store.client.address import socket_path_of

            try:
                path = socket_path_of(self._options.socket or self._socket_path())
                self._has_no_remote = not os.path.exists(path)  # noqa: PTH110 - pathlib costs an import of 5 ms
            except Exception as error:  # a configuration that cannot be read, say
                self._say(f"no daemon is asked: {error}")
                self._has_no_remote = True
            else:
                if self._has_no_remote:
                    self._say(f"no daemon is asked: there is no socket {path}")
                else:
                    self._remote = self._connect(path)
        return self._remote

    def _connect(self, path: str) -> Remote:
        from tiered_store.build.entry import Place
        from tiered_store.client.sync import Client
        from tiered_store.gocache.remote import Remote

        deadline_s = self._options.deadline_s
        return Remote(
            self._local,
            Client(path, timeout_s=deadline_s, reconnect_s=min(_RECONNECT_S, deadline_s)),
            Client(path, timeout_s=_UPLOAD_TIMEOUT_S, reconnect_s=_RECONNECT_S),
            Place("go", self._options.instance),
            deadline_s=deadline_s,
            may_write=not self._options.is_read_only,
            found=self._found,
        )

    def _offer(self, action: str, output: Output) -> None:
        if not self._options.is_read_only and (remote := self._the_remote()) is not None:
            remote.offer(action, output)

    # -- the end ------------------------------------------------------------------------------------

    def _spilled(self) -> LocalCache:
        """A directory for files that the usual one cannot take, as long as this program runs."""
        if self._spill is None:
            import tempfile

            directory = tempfile.mkdtemp(prefix="tiered-store-go-")
            try:
                self._spill = LocalCache(directory)
            except OSError:
                _remove_tree(directory)
                raise
        return self._spill

    def hurry(self) -> None:
        """Wait for nothing any more."""
        self._drain_s = 0.0

    def end(self) -> None:
        """Close standard output, for which the go command waits, and tidy up behind its back."""
        if not self._is_closed and self._remote is not None:
            self._remote.drain(self._drain_s)
        if self._put is not None:
            self._put.abandon()
        self._local.running.left()
        if self._options.is_verbose:
            self._summarize()
        with self._writing:  # a thread that comes late must not write into whatever gets this number next
            os.close(self._stdout)
            self._stdout = -1
        if self._spill is not None:
            self._spill.running.close()
            _remove_tree(self._spill.directory)
        if self._spill is not self._local:
            self._trim()

    def _trim(self) -> None:
        from tiered_store.gocache.trim import trim

        has_written = self._puts > 0 or (self._remote is not None and self._remote.counters.fetched > 0)
        try:
            trim(self._local.directory, self._options.max_bytes, self._options.max_age_s, has_written=has_written)
        except OSError as error:
            self._say(f"{self._local.directory} was not trimmed: {error}")

    def _summarize(self) -> None:
        said = [f"{self._gets} gets, {self._hits} found here"]
        if self._remote is not None:
            counters = self._remote.counters
            said += [f"{counters.fetched} in the daemon"]
            said += [f"{self._puts} puts, {counters.uploaded} uploaded, {counters.dropped} not"]
            said += [f"{counters.damaged} damaged"] if counters.damaged else []
            said += [f"{counters.unanswered} unanswered"] if counters.unanswered else []
            said += [counters.fault] if counters.fault else []
        else:
            said += [f"{self._puts} puts"]
        self._say("; ".join(said))

    def _say(self, text: str) -> None:
        if self._options.is_verbose:
            _complain(text)


def _is_readable(fd: int, timeout_s: float) -> bool:
    from select import POLLIN, poll

    waiting = poll()
    waiting.register(fd, POLLIN)
    return bool(waiting.poll(timeout_s * 1000 + 1))


def _remove_tree(directory: str) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


def _complain(text: str) -> None:
    print(f"tiered-store gocacheprog: {text}", file=sys.stderr, flush=True)  # noqa: T201 - what a go command shows


class _Put:
    """The body of a put, on its way into a file."""

    def __init__(self, request: Request, local: LocalCache, spilled: Callable[[], LocalCache]) -> None:
        self.request = request
        self.problem = request.problem
        #: What was put; None where that is only in a temporary directory.
        self.output: Output | None = None
        #: Whether the daemon may not have it yet.
        self.is_new = True
        self._local = local
        self._home = local
        self._spilled = spilled
        self._fd = -1
        self._temporary = ""
        self._written = 0
        self._known = local.find(request.action) if not self.problem else None
        if self._known is not None and self._known.output != request.output:
            self._known = None
        self._is_there = not self.problem and (self._known is not None or local.has(request.output, request.size))
        if not self._is_there and not self.problem:
            import hashlib

            self._digest = hashlib.sha256()
            self._open()

    def _open(self) -> None:
        try:
            self._fd, self._temporary = self._home.create()
        except OSError as error:
            self._move(error)

    def write(self, piece: bytes) -> None:
        """Take the next piece."""
        if self._is_there or self.problem:
            return
        self._digest.update(piece)
        self._append(piece)

    def _append(self, piece: bytes) -> None:
        view = memoryview(piece)
        try:
            while view:
                count = os.write(self._fd, view)
                view = view[count:]
                self._written += count
        except OSError as error:
            self._move(error)
            if not self.problem:
                self._append(bytes(view))

    def _move(self, error: OSError) -> None:
        """Go on in a temporary directory with what was written so far."""
        fd, temporary, home = self._fd, self._temporary, self._home
        self._fd = -1
        try:
            self._home = self._spilled()
            if home is self._home:
                raise error
            self._fd, self._temporary = self._home.create()
            done = 0
            while done < self._written:
                done += os.write(self._fd, os.pread(fd, min(_READ_BYTES, self._written - done), done))
        except OSError as problem:
            self.problem = f"no directory takes this file: {problem}"
        finally:
            if fd >= 0:
                os.close(fd)
                home.discard(temporary)

    def finish(self) -> str | None:
        """Give the file its name; its path, or None where ``problem`` says why there is none."""
        request = self.request
        if not self.problem and not self._is_there and self._digest.hexdigest() != request.output:
            self.problem = "the OutputID is not the sha256 of the body"
        if self.problem:
            self.abandon()
            return None
        try:
            if not self._is_there:
                fd, self._fd = self._fd, -1
                self._home.install(fd, self._temporary, request.output)
            if self._home is self._local:
                self._note()
        except OSError as error:
            self.problem = f"the file cannot be written: {error}"
            return None
        return self._home.path_of(request.output)

    def _note(self) -> None:
        if self._known is not None:
            self.output, self.is_new = self._known, not self._known.is_uploaded
            return
        import time

        self.output = Output(self.request.output, self.request.size, time.time_ns(), is_uploaded=False)
        self._local.note(self.request.action, self.output)

    def abandon(self) -> None:
        """Remove what was written."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            self._home.discard(self._temporary)
