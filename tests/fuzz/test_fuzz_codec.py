"""The codec under mutated golden frames and garbage.

Accepted outcomes, and no others: frames come out, or `ProtocolError` is raised, after which the reader raises
nothing else ever again; a decoder gives a message or raises `ProtocolError`; what is kept of the input is less than
one frame of the largest size.

`TIERED_STORE_FUZZ_S` sets how long it runs (3 seconds by default), `TIERED_STORE_FUZZ_SEED` where it starts;
a failure names its seed.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

from tests.support.wire import GOLDEN, decode_message
from tiered_store.errors import ProtocolError
from tiered_store.protocol.frames import HEADER_BYTES, MAX_FRAME_BYTES, FrameReader

__all__ = ["SEED", "fuzz_seconds", "mutated", "rounds"]

SEED = int(os.environ.get("TIERED_STORE_FUZZ_SEED", "0"))
FRAMES = [bytes.fromhex(entry["hex"]) for entry in GOLDEN]


def fuzz_seconds(default: float) -> float:
    """How long to run."""
    return float(os.environ.get("TIERED_STORE_FUZZ_S", default))


def rounds(seconds: float, at_least: int, play: Callable[[random.Random], None]) -> int:
    """Play rounds until the time is up, each from a seed of its own; how many there were."""
    deadline = time.monotonic() + seconds
    count = 0
    while count < at_least or time.monotonic() < deadline:
        seed = SEED + count
        try:
            play(random.Random(seed))
        except Exception as error:
            raise AssertionError(f"found with TIERED_STORE_FUZZ_SEED={seed}: {error!r}") from error
        count += 1
    return count


def mutated(data: bytes, dice: random.Random) -> bytes:
    """A few bytes changed, removed, doubled or put in; sometimes a length that lies."""
    changed = bytearray(data)
    for _ in range(dice.choice([0, 0, 1, 1, 2, 5])):
        position = dice.randrange(len(changed) + 1)
        kind = dice.randrange(6)
        if kind == 0 and position < len(changed):
            changed[position] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
        elif kind == 1:
            del changed[position : position + dice.choice([1, 2, 4, 16])]
        elif kind == 2:
            changed[position:position] = dice.randbytes(dice.choice([1, 2, 4, 16]))
        elif kind == 3:
            changed[position:position] = changed[position : position + 16]
        elif kind == 4:
            changed[0:4] = dice.choice([0, 1, len(changed), MAX_FRAME_BYTES, MAX_FRAME_BYTES + 1]).to_bytes(4, "little")
        elif len(changed) >= HEADER_BYTES:
            changed[6:8] = dice.randrange(65_536).to_bytes(2, "little")
    return bytes(changed)


def _play(dice: random.Random) -> None:
    stream = b"".join(
        dice.randbytes(dice.randrange(40)) if dice.random() < 0.05 else mutated(dice.choice(FRAMES), dice)
        for _ in range(dice.randrange(1, 12))
    )
    reader = FrameReader()
    is_dead = False
    position = 0
    while position < len(stream):
        size = dice.choice([1, 3, 16, 17, 100, len(stream)])
        piece, position = stream[position : position + size], position + size
        try:
            frames = reader.receive(piece)
        except ProtocolError:
            is_dead = True
            assert not reader.is_midway
            continue
        assert not is_dead, "a reader came back from the dead"
        assert len(reader._pending) < HEADER_BYTES + MAX_FRAME_BYTES
        for frame in frames:
            try:
                decode_message(frame)
            except ProtocolError:
                continue


def test_codec() -> None:
    assert rounds(fuzz_seconds(3.0), 300, _play) >= 300
