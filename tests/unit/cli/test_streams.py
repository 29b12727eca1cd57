from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from tiered_store.cli.streams import (
    StreamClosed,
    discard_output,
    patient_streams,
    standard_input,
    standard_output,
)

Pipe = tuple[io.FileIO, io.FileIO]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Both ends of a pipe that does not wait."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    with io.FileIO(reading, "rb") as source, io.FileIO(writing, "wb") as target:
        yield source, target


def use(monkeypatch: pytest.MonkeyPatch, stdin: int | None, stdout: int | None) -> None:
    """Have these as the process's streams, unbuffered as with PYTHONUNBUFFERED, and make them patient."""
    source = None if stdin is None else io.TextIOWrapper(io.FileIO(stdin, "rb", closefd=False))
    target = None if stdout is None else io.TextIOWrapper(io.FileIO(stdout, "wb", closefd=False))
    monkeypatch.setattr(sys, "stdin", source)
    monkeypatch.setattr(sys, "stdout", target)
    patient_streams()


def test_everything_is_written(monkeypatch: pytest.MonkeyPatch, pipe: Pipe) -> None:
    reading, writing = pipe
    os.set_blocking(reading.fileno(), True)
    use(monkeypatch, None, writing.fileno())
    data = os.urandom(1_000_000)
    taken = bytearray()

    def read() -> None:
        while piece := reading.read(65536):
            taken.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    stream = standard_output()
    assert stream.write(data) == len(data)
    print("and text")
    sys.stdout.flush()
    writing.close()
    reader.join()
    assert bytes(taken) == data + b"and text\n"


def test_everything_is_read(monkeypatch: pytest.MonkeyPatch, pipe: Pipe) -> None:
    reading, writing = pipe
    use(monkeypatch, reading.fileno(), None)

    def write() -> None:
        os.set_blocking(writing.fileno(), True)
        with writing:
            assert writing.write(b"x" * 1_000_000) == 1_000_000

    writer = threading.Thread(target=write)
    writer.start()
    taken = b""
    while piece := standard_input().read(262_144):
        taken += piece
    writer.join()
    assert taken == b"x" * 1_000_000


def test_errors_name_the_stream(monkeypatch: pytest.MonkeyPatch, pipe: Pipe) -> None:
    reading, writing = pipe
    use(monkeypatch, writing.fileno(), reading.fileno())  # the wrong way round: neither can be done
    with pytest.raises(OSError, match="standard input"):
        standard_input().read(1)
    standard_output().write(b"x")
    with pytest.raises(OSError, match="standard output"):
        sys.stdout.flush()
    discard_output()


def test_what_could_not_be_written_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    use(monkeypatch, None, full)
    standard_output().write(b"x")
    with pytest.raises(OSError, match="No space left"):
        sys.stdout.flush()
    discard_output()
    sys.stdout.flush()
    os.close(full)


def test_closed_ones_stay_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, None, None)
    for stream, call in (("input", standard_input), ("output", standard_output)):
        with pytest.raises(StreamClosed, match=f"standard {stream} is closed"):
            call()
