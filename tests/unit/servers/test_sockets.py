from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiered_store.servers import sockets
from tiered_store.servers.sockets import ListenError, bind_tcp, bind_unix, peer_credentials


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sock"


@contextlib.contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        yield client


def leave_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_listens_with_the_mode_asked_for(path: Path) -> None:
    with bind_unix(path, mode=0o640) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert listener.socket.getblocking() is False
        with connected(path):
            pass


def test_nobody_can_connect_before_mode_and_owner_are_final(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Watched(socket.socket):
        def bind(self, address: object) -> None:
            super().bind(address)  # type: ignore[arg-type]
            events.append(f"bind {stat.S_IMODE(path.stat().st_mode):04o}")

        def listen(self, backlog: int = 0) -> None:  # type: ignore[override]
            found = path.stat()
            events.append(f"listen {stat.S_IMODE(found.st_mode):04o} {found.st_gid}")
            super().listen(backlog)

    monkeypatch.setattr(sockets.socket, "socket", Watched)
    with bind_unix(path, mode=0o660, group=str(os.getgid())):
        assert events == ["bind 0000", f"listen 0660 {os.getgid()}"]


def test_the_umask_is_as_before(path: Path) -> None:
    before = os.umask(0o022)
    try:
        with bind_unix(path):
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_close_removes_everything_and_is_idempotent(path: Path) -> None:
    before = open_descriptors()
    listener = bind_unix(path)
    listener.close()
    listener.close()
    assert list(path.parent.iterdir()) == []
    assert open_descriptors() == before


def test_close_leaves_what_somebody_else_put_there(path: Path) -> None:
    listener = bind_unix(path)
    path.unlink()
    path.write_text("not ours")
    listener.close()
    assert path.read_text() == "not ours"


def test_close_survives_a_path_that_has_gone(path: Path) -> None:
    listener = bind_unix(path)
    path.unlink()
    listener.close()
    assert not path.exists()


@pytest.mark.parametrize(("mode", "expected"), [(0o660, 0o755), (0o600, 0o700)])
def test_a_missing_directory_is_created(tmp_path: Path, mode: int, expected: int) -> None:
    before = os.umask(0o022)
    try:
        with bind_unix(tmp_path / "new" / "s.sock", mode=mode):
            assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == expected
    finally:
        os.umask(before)


def test_a_stale_socket_is_replaced(path: Path) -> None:
    leave_stale(path)
    with bind_unix(path), connected(path):
        pass


def test_a_socket_that_answers_is_not_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(1)
        with pytest.raises(ListenError, match="another daemon answers on"):
            bind_unix(path)
        with connected(path):
            pass


def test_a_daemon_too_busy_to_answer_is_not_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_PROBE_TIMEOUT_S", 0.01)
    with socket.socket(socket.AF_UNIX) as other, contextlib.ExitStack() as waiting:
        other.bind(str(path))
        other.listen(0)
        for _ in range(2):  # fill the backlog
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))
        with pytest.raises(ListenError, match="another daemon answers on"):
            bind_unix(path)


def test_another_listener_of_ours_is_not_replaced(path: Path) -> None:
    with bind_unix(path), pytest.raises(ListenError, match="another daemon holds"):
        bind_unix(path)


def test_a_daemon_that_is_just_starting_is_not_overtaken(path: Path) -> None:
    leave_stale(path)
    lock = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ListenError, match="another daemon holds"):
            bind_unix(path)
    finally:
        os.close(lock)
    assert path.exists()


def test_the_lock_file_of_a_killed_daemon_is_no_obstacle(path: Path) -> None:
    Path(f"{path}.lock").touch()
    leave_stale(path)
    with bind_unix(path):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_lock_file_removed_while_it_was_being_locked_is_taken_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        real(descriptor, operation)
        calls.append(descriptor)
        if len(calls) == 1:  # the last holder lets go exactly here
            Path(f"{path}.lock").unlink()
        elif len(calls) == 2:  # and another one has come and gone, leaving a newer file
            Path(f"{path}.lock").rename(f"{path}.old")
            Path(f"{path}.lock").touch()

    monkeypatch.setattr(fcntl, "flock", flock)
    before = open_descriptors()
    with bind_unix(path):
        assert len(calls) == 3
    assert open_descriptors() == before


def test_of_many_that_start_at_once_one_wins(path: Path) -> None:
    leave_stale(path)
    barrier = threading.Barrier(8)
    won: list[sockets.UnixListener] = []
    lost: list[str] = []

    def start() -> None:
        barrier.wait()
        try:
            won.append(bind_unix(path))
        except ListenError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    with connected(path):
        pass
    won[0].close()


def test_a_directory_there(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ListenError, match="is a directory; name the socket itself"):
        bind_unix(path)
    assert path.is_dir()


@pytest.mark.parametrize("content", ["", "precious"])
def test_a_file_there(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(ListenError, match="is a file that is no socket, and is not replaced"):
        bind_unix(path)
    assert path.read_text() == content


def test_a_symlink_there_is_not_followed(path: Path, tmp_path: Path) -> None:
    leave_stale(tmp_path / "elsewhere.sock")
    path.symlink_to(tmp_path / "elsewhere.sock")
    with pytest.raises(ListenError, match="no socket, and is not replaced"):
        bind_unix(path)
    assert (tmp_path / "elsewhere.sock").exists()


def test_a_socket_of_another_kind_there(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(ListenError, match="socket of another kind"):
            bind_unix(path)
    assert path.exists()


def test_a_path_over_the_systems_limit(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="has 108 bytes, the system allows 107"):
        bind_unix(Path("/" + "x" * 107))


def test_a_path_at_the_systems_limit(tmp_path: Path) -> None:
    room = 107 - len(os.fsencode(tmp_path)) - 1
    if room < 1:
        pytest.skip("the temporary directory's own name is too long")
    path = tmp_path / ("x" * room)
    with bind_unix(path), connected(path):
        pass


def test_a_group_that_does_not_exist(path: Path) -> None:
    with pytest.raises(ListenError, match="no group 'no-such-group-here'"):
        bind_unix(path, group="no-such-group-here")
    assert list(path.parent.iterdir()) == []


def test_a_named_group(path: Path) -> None:
    import grp

    name = grp.getgrgid(os.getgid()).gr_name
    with bind_unix(path, group=name):
        assert path.stat().st_gid == os.getgid()


def test_a_group_that_may_not_be_given_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    before = open_descriptors()
    with pytest.raises(ListenError, match="cannot be given to group 4242: only root or a member"):
        bind_unix(path, group="4242")
    assert list(path.parent.iterdir()) == []
    assert open_descriptors() == before


def test_a_directory_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ListenError, match=r"cannot be created: (Not a directory|File exists)"):
        bind_unix(tmp_path / "file" / "s.sock")


def test_a_failing_system_call_is_said_and_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "chmod", refuse)
    before = open_descriptors()
    with pytest.raises(ListenError, match="No space left on device"):
        bind_unix(path)
    assert list(path.parent.iterdir()) == []
    assert open_descriptors() == before


def test_who_is_at_the_other_end(path: Path) -> None:
    with bind_unix(path) as listener, connected(path):
        accepted, _ = listener.socket.accept()
        with accepted:
            found = peer_credentials(accepted)
    assert (found.pid, found.uid, found.gid) == (os.getpid(), os.getuid(), os.getgid())


def test_a_port_is_listened_on_and_taken(path: Path) -> None:
    with bind_tcp("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            pass
        with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            bind_tcp("127.0.0.1", port)


def test_an_address_of_another_machine_is_not_listened_on() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1 port 1"):
        bind_tcp("192.0.2.1", 1)
