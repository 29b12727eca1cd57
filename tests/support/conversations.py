"""Conversations of a client driven by hand, and the frames that a daemon sends in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.wire import info, one_frame
from tiered_store.client.operations import Blocking, Conversation
from tiered_store.errors import StoreError
from tiered_store.objects import Descriptor
from tiered_store.protocol.frames import Frame, Opcode, encode_frame
from tiered_store.protocol.messages import encode_info
from tiered_store.protocol.status import encode_error

__all__ = ["END", "HEAD", "ID", "LONG_STREAM", "STORED", "STREAM", "Driver", "data", "refusal", "window"]

ID = 7


class Driver:
    """Drives a conversation as far as it goes without being given a frame."""

    def __init__(self, conversation: Conversation[Any]) -> None:
        self.conversation = conversation
        self.sent: list[Frame] = []
        self.descriptors: list[Descriptor] = []
        self.result: Any = None
        self.is_over = False
        self._go(lambda: next(conversation))

    def _go(self, step: Callable[[], Any]) -> None:
        try:
            action = step()
            while action is not None:
                if isinstance(action, Blocking):
                    action.run()
                else:
                    data, descriptor = action
                    self.sent.append(one_frame(data))
                    self.descriptors += [descriptor] if descriptor else []
                action = next(self.conversation)
        except StopIteration as stop:
            self.is_over = True
            self.result = stop.value

    def give(self, *frames: bytes, descriptor: Descriptor | None = None) -> Driver:
        """Have these frames arrive."""
        for data in frames:
            assert not self.is_over
            frame = one_frame(data)
            self._go(lambda frame=frame: self.conversation.send((frame, descriptor)))
        return self

    def opcodes(self) -> list[str]:
        return [Opcode(frame.opcode).name for frame in self.sent]


def refusal(error: StoreError) -> bytes:
    return encode_error(ID, error)


def data(body: bytes) -> bytes:
    return encode_frame(Opcode.DATA, ID, body=body)


def window(size: int) -> bytes:
    return encode_frame(Opcode.WINDOW, ID, extra=size)


END = encode_frame(Opcode.END, ID)
HEAD = encode_info(info("x", 10), "memory", with_key=False)
STREAM = encode_frame(Opcode.OBJECT_STREAM, ID, head=HEAD)
LONG_STREAM = encode_frame(Opcode.OBJECT_STREAM, ID, head=encode_info(info("x", 1 << 30), with_key=False))
STORED = encode_frame(Opcode.INFO, ID, head=encode_info(info("a/b")))
