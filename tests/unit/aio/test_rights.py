"""Descriptors as ancillary data, over real sockets."""

from __future__ import annotations

import array
import os
import socket

from tests.support.origins import open_descriptors
from tiered_store.aio.rights import ANCILLARY_BYTES, CLOEXEC, own_descriptors, rights_of
from tiered_store.objects import Descriptor


def some_file(data: bytes) -> Descriptor:
    descriptor = Descriptor(os.memfd_create("test", os.MFD_CLOEXEC))
    os.write(descriptor.fd, data)
    return descriptor


def receive(sock: socket.socket) -> tuple[bytes, list[Descriptor]]:
    data, ancillary, _, _ = sock.recvmsg(100, ANCILLARY_BYTES, CLOEXEC)
    return data, own_descriptors(ancillary)


def test_one_travels_and_is_owned() -> None:
    here, there = socket.socketpair()
    with here, there:
        before = open_descriptors()
        file = some_file(b"hello")
        here.sendmsg([b"x"], rights_of(file))
        file.close()
        data, (received,) = receive(there)
        assert data == b"x"
        assert os.pread(received.fd, 100, 0) == b"hello"
        assert not os.get_inheritable(received.fd)
        del received
        assert open_descriptors() == before


def test_more_than_there_is_room_for_are_closed_by_the_kernel() -> None:
    here, there = socket.socketpair()
    with here, there:
        before = open_descriptors()
        file = some_file(b"x")
        here.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fd] * 20))])
        _, received = receive(there)
        assert len(received) == 4
        assert open_descriptors() == before + 1 + len(received)


def test_other_ancillary_data_is_none_of_ours() -> None:
    assert own_descriptors([(socket.SOL_SOCKET, 77, b"1234"), (77, socket.SCM_RIGHTS, b"1234")]) == []


def test_half_a_number_is_none() -> None:
    assert own_descriptors([(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"123")]) == []
