"""Sockets to listen on, and who is at the other end of a unix socket. Knows no protocol.

The invariants of unix sockets: the socket file has its final mode and owner before anybody can connect, two daemons
never share a path, and only a socket that nobody answers is ever replaced.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["ListenError", "PeerCredentials", "UnixListener", "bind_tcp", "bind_unix", "peer_credentials"]

#: sockaddr_un has room for 108 bytes, the last of which is the terminating zero (unix(7)).
_PATH_MAX_BYTES = 107
_BACKLOG = 1024
_PROBE_TIMEOUT_S = 1.0
_UCRED = struct.Struct("iII")  # struct ucred: pid_t, uid_t, gid_t (socket(7), SO_PEERCRED)


class ListenError(Exception):
    """A socket cannot be opened at this path; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """The process at the other end, as it was when it connected."""

    pid: int
    uid: int
    gid: int


class UnixListener:
    """A listening socket and its claim on the path, until :meth:`close`.

    Attributes:
        socket: non-blocking and listening.
        path: where it is bound.
    """

    def __init__(self, listening: socket.socket, path: Path, lock: int) -> None:
        self.socket = listening
        self.path = path
        self._lock = lock
        self._identity = _identity(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and remove the socket file, if it is still this listener's own; idempotent."""
        if self._lock < 0:
            return
        self.socket.close()
        with contextlib.suppress(OSError):
            if _identity(self.path) == self._identity:
                self.path.unlink()
        lock, self._lock = self._lock, -1
        _release(_lock_path(self.path), lock)


def bind_unix(path: Path, *, mode: int = 0o660, group: str | None = None) -> UnixListener:
    """Listen on a unix socket; a stale socket file is replaced.

    A lock file beside the socket is held as long as the listener lives, so that two daemons that start at
    once do not both find the path free. The directory is created if it is missing: open to others if
    ``mode`` is, else private.

    Args:
        path: absolute, at most 107 bytes.
        mode: permission bits of the socket file.
        group: name or number of the group that owns it; the daemon's own if None.

    Raises:
        ListenError: if the path is unusable, or another daemon is there.
    """
    size = len(os.fsencode(path))
    if size > _PATH_MAX_BYTES:
        raise ListenError(f"the socket path {path} has {size} bytes, the system allows {_PATH_MAX_BYTES}")
    gid = _group_id(group)
    try:
        path.parent.mkdir(mode=0o755 if mode & 0o077 else 0o700, parents=True, exist_ok=True)
        lock = _acquire(_lock_path(path))
    except OSError as error:
        raise ListenError(f"the socket {path} cannot be created: {error.strerror} ({error.filename})") from error
    if lock is None:
        raise ListenError(f"another daemon holds {path}; stop it, or choose another socket")
    try:
        _clear(path)
        return UnixListener(_listen(path, mode, gid), path, lock)
    except BaseException as error:
        _release(_lock_path(path), lock)
        if isinstance(error, OSError):
            raise ListenError(f"the socket {path} cannot be created: {error.strerror}") from error
        raise


def bind_tcp(host: str, port: int) -> socket.socket:
    """Listen on an address of this machine.

    Args:
        host: an IP address.
        port: 1 to 65535.

    Raises:
        ListenError: somebody else listens there, or it is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        # A daemon that is started anew need not wait for its predecessor's connections to be forgotten.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ListenError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listening


def peer_credentials(connection: socket.socket) -> PeerCredentials:
    """Who connected, by the kernel's word (``SO_PEERCRED``).

    Raises:
        OSError: if the socket is closed or no unix socket.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return PeerCredentials(*_UCRED.unpack(raw))


def _listen(path: Path, mode: int, gid: int | None) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    bound = False
    try:
        # The file appears without any rights; connects are refused until listen() anyway.
        old = os.umask(0o777)
        try:
            listening.bind(str(path))
        finally:
            os.umask(old)
        bound = True
        if gid is not None:
            _give_to_group(path, gid)
        path.chmod(mode)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        if bound:
            with contextlib.suppress(OSError):
                path.unlink()
        raise
    return listening


def _give_to_group(path: Path, gid: int) -> None:
    try:
        os.chown(path, -1, gid)
    except PermissionError:
        raise ListenError(
            f"the socket {path} cannot be given to group {gid}: only root or a member of the group may do that"
        ) from None


def _clear(path: Path) -> None:
    """Make room at ``path``: only a socket that refuses connections is removed."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(kind):
        raise ListenError(f"{path} is a directory; name the socket itself, such as {path / 'store.sock'}")
    if not stat.S_ISSOCK(kind):
        raise ListenError(f"{path} is a file that is no socket, and is not replaced; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except (TimeoutError, BlockingIOError):
            pass  # nobody takes the connection, but somebody listens
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                raise ListenError(f"{path} is a socket of another kind, and is not replaced; remove it") from None
            raise
    raise ListenError(f"another daemon answers on {path}; stop it, or choose another socket")


def _group_id(group: str | None) -> int | None:
    if not group:
        return None
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ListenError(f"there is no group {group!r} to own the socket") from None


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _acquire(path: Path) -> int | None:
    """Create and lock the file at ``path``; the open descriptor is the claim. None if somebody holds it."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder removes the file before it lets go. Whoever opened it in between has locked
            # a file that is no longer there, and must take the one that is.
            if _identity(path) == _identity(lock):
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _release(path: Path, lock: int) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(lock)


def _identity(file: Path | int) -> tuple[int, int]:
    found = file.lstat() if isinstance(file, Path) else os.fstat(file)
    return found.st_dev, found.st_ino
