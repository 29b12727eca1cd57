"""A peer that speaks the wire format by hand, well or badly."""

from __future__ import annotations

import array
import socket
from pathlib import Path
from typing import Self

from tiered_store.protocol.frames import Flag, Frame, FrameReader, Opcode, encode_frame
from tiered_store.protocol.messages import PutRequest, encode_hello, encode_put
from tiered_store.protocol.status import decode_error

__all__ = ["Peer"]


class Peer:
    """A connection to a daemon; reads wait at most ``timeout_s`` seconds."""

    def __init__(self, path: str | Path, *, hello: bool = True, timeout_s: float = 20.0) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout_s)
        self.sock.connect(str(path))
        self._reader = FrameReader()
        self._frames: list[Frame] = []
        if hello:
            self.send(encode_hello("test"))
            assert self.receive().opcode == Opcode.WELCOME

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def send(self, data: bytes, *files: int) -> None:
        """Send bytes, and descriptors with their first one."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        sent = self.sock.sendmsg([data], rights)
        if sent < len(data):
            self.sock.sendall(data[sent:])

    def receive(self) -> Frame:
        """The next frame; ``EOFError`` when the daemon has closed the connection."""
        while not self._frames:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self._frames += self._reader.receive(data)
        return self._frames.pop(0)

    def begin_upload(self, request_id: int, key: str, size: int | None, flags: int = Flag.STREAM) -> Frame:
        """Ask to send an object; the daemon's first answer."""
        self.send(encode_put(request_id, PutRequest(key.encode(), size, None, {}), flags=flags))
        return self.receive()

    def get(self, request_id: int, key: str, flags: int = 0) -> None:
        """Ask for an object."""
        self.send(encode_frame(Opcode.GET, request_id, body=key.encode(), flags=flags))

    def error(self) -> Exception:
        """What the daemon complains about: the next frame must be an ERROR."""
        frame = self.receive()
        assert frame.opcode == Opcode.ERROR, frame
        return decode_error(frame)

    def is_ended(self) -> bool:
        """Whether the daemon closes the connection, after whatever it still has to say."""
        try:
            while True:
                self.receive()
        except (EOFError, ConnectionError):
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        """Go away without a word."""
        self.sock.close()
