"""What a go command does with its cache program: the protocol from the other side, over any two descriptors."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.support.daemon import clean_environment

__all__ = ["Go", "GoCommand", "action_of"]


def action_of(name: str) -> bytes:
    """An action ID."""
    return hashlib.sha256(b"action " + name.encode()).digest()


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


class Go:
    """Asks as go commands do.

    Args:
        sending: where requests go; owned.
        receiving: where replies come from; owned.
    """

    def __init__(self, sending: int, receiving: int) -> None:
        self._sending = sending
        self._replies = os.fdopen(receiving, "rb")
        self._number = 0
        self.greeting = self.receive()

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._sending, data) :]

    def receive(self) -> dict[str, Any]:
        """The next reply; ``EOFError`` where there is none."""
        line = self._replies.readline()
        if not line:
            raise EOFError
        reply: dict[str, Any] = json.loads(line)
        return reply

    def begin(self, command: str, body: bytes | None = None, **fields: Any) -> int:
        """Send a request; its number."""
        self._number += 1
        text = json.dumps({"ID": self._number, "Command": command, **fields}, separators=(",", ":")).encode() + b"\n\n"
        if body:
            text += b'"' + base64.b64encode(body) + b'"\n'
        self.send(text)
        return self._number

    def ask(self, command: str, body: bytes | None = None, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its reply."""
        number = self.begin(command, body, **fields)
        reply = self.receive()
        assert reply.pop("ID") == number
        return reply

    def get(self, name: str) -> bytes | None:
        """What is in the file that a get names, or None for a miss; all that go looks at is checked."""
        reply = self.ask("get", ActionID=_text(action_of(name)))
        if reply == {"Miss": True}:
            return None
        body = Path(reply["DiskPath"]).read_bytes()
        assert reply["OutputID"] == _text(hashlib.sha256(body).digest())
        assert reply.get("Size", 0) == len(body)
        return body

    def put(self, name: str, body: bytes) -> Path:
        """The file that a put names."""
        path = Path(self.begin_put(name, body)["DiskPath"])
        assert path.read_bytes() == body
        return path

    def begin_put(self, name: str, body: bytes, output: bytes | None = None) -> dict[str, Any]:
        output = hashlib.sha256(body).digest() if output is None else output
        size = {"BodySize": len(body)} if body else {}
        return self.ask("put", body, ActionID=_text(action_of(name)), OutputID=_text(output), **size)

    def close(self) -> None:
        """End as go commands do: say so, then close the pipe and wait for the end of the other."""
        assert self.ask("close") == {}
        self.leave()
        assert self._replies.read() == b""
        self._replies.close()

    def leave(self) -> None:
        """Close the pipe without a word."""
        if self._sending >= 0:
            os.close(self._sending)
            self._sending = -1

    def abandon(self) -> None:
        self.leave()
        self._replies.close()


class GoCommand(Go):
    """The same with the program as a process: ``with GoCommand("--dir", ..., socket=...) as go``."""

    def __init__(self, *options: str, env: Mapping[str, str] | None = None) -> None:
        environment = {**clean_environment(), "PYTHONDONTWRITEBYTECODE": "", **(env or {})}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tiered_store", "gocacheprog", *options],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        sending, receiving = os.dup(self.process.stdin.fileno()), os.dup(self.process.stdout.fileno())
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            super().__init__(sending, receiving)
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()
        self.end()

    def finish(self) -> str:
        """Close, and wait for the program's end; what it said on standard error."""
        self.close()
        assert self.process.stderr is not None
        said = self.process.stderr.read().decode()
        assert self.process.wait(30) == 0, said
        return said

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
