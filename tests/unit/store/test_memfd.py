import fcntl
import gc
import mmap
import os

import pytest

from tiered_store.errors import QuotaExceeded
from tiered_store.objects import read_body
from tiered_store.store.memfd import MemoryFile, MemoryRoom, claim


def test_what_is_written_is_sealed_and_can_be_mapped() -> None:
    file = MemoryFile(MemoryRoom(1000), 10)
    file.write(b"hello")
    file.write(bytearray(b"world"))
    body = file.body()
    assert read_body(body) == b"helloworld"
    assert body.is_memory
    seals = fcntl.fcntl(body.descriptor.fd, fcntl.F_GET_SEALS)
    assert seals == fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    with pytest.raises(PermissionError):
        os.write(body.descriptor.fd, b"!")
    with mmap.mmap(body.descriptor.fd, 10, prot=mmap.PROT_READ) as view:
        assert view[:5] == b"hello"


def test_room_is_taken_at_once_where_the_size_is_known() -> None:
    room = MemoryRoom(100)
    file = MemoryFile(room, 80)
    with pytest.raises(QuotaExceeded) as caught:
        MemoryFile(room, 30)
    assert caught.value.retryable
    del file
    gc.collect()
    MemoryFile(room, 30)


def test_room_grows_with_the_writing_where_it_is_not() -> None:
    room = MemoryRoom(100)
    file = MemoryFile(room, None)
    file.write(b"x" * 60)
    with pytest.raises(QuotaExceeded):
        file.write(b"x" * 60)
    file.write(b"x" * 40)
    with pytest.raises(QuotaExceeded):
        room.take(1)


def test_the_room_is_held_as_long_as_anyone_reads() -> None:
    room = MemoryRoom(100)
    file = MemoryFile(room, 100)
    file.write(b"x" * 100)
    body = file.body()
    file.discard()
    del file
    with pytest.raises(QuotaExceeded):
        room.take(1)
    del body
    room.take(100)


def test_what_the_memory_tier_holds_is_not_counted_twice() -> None:
    room = MemoryRoom(100)
    file = MemoryFile(room, 100)
    body = file.body()
    claim(body)
    claim(b"bytes are nobody's room")
    room.take(100)
    del file, body
    with pytest.raises(QuotaExceeded):
        room.take(1)  # and it is not given back twice either
