"""PUT in its three forms: the bytes inline, as a stream, or behind a descriptor."""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import stat
from typing import Final

from tiered_store.errors import PermissionDenied, ProtocolError, TooLarge
from tiered_store.key import ARTIFACT_PREFIX, is_artifact, parse_key
from tiered_store.objects import INLINE_MAX_BYTES, Descriptor, metadata_bytes
from tiered_store.origins.base import PutHeaders
from tiered_store.protocol.frames import STREAM_WINDOW_BYTES, Flag, Frame, Opcode, encode_frame
from tiered_store.protocol.messages import PutRequest, decode_put, encode_info
from tiered_store.servers.connection import Connection
from tiered_store.servers.transfers import Upload
from tiered_store.store.spool import Staged

__all__ = ["SignsOfLife", "put"]

#: All that could still change a memfd. F_SEAL_SEAL keeps the set from being a promise for now only.
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
#: All that a reply says of an object has to fit a head of 64 KiB; this leaves room for what the origin adds.
_HEAD_MAX_BYTES: Final = 60 * 1024


async def put(connection: Connection, frame: Frame) -> None:
    """Store one object; nothing is taken before key, metadata and size have been found good."""
    request = decode_put(frame)
    key = None if request.key == ARTIFACT_PREFIX.encode() else parse_key(request.key)
    _check_metadata(request, connection.limits.max_metadata_bytes)
    if frame.head_length > _HEAD_MAX_BYTES:
        raise TooLarge(f"key, content type and metadata take {frame.head_length} bytes, at most {_HEAD_MAX_BYTES} fit")
    headers = PutHeaders(request.content_type, request.metadata)
    hashed = key is None or is_artifact(key)
    if frame.flags & (Flag.STREAM | Flag.DESCRIPTOR) and len(frame.payload) != frame.head_length:
        raise ProtocolError("a PUT whose bytes are to follow has none of its own")
    if frame.flags & (Flag.STREAM | Flag.DESCRIPTOR):
        receive = _receive_stream if frame.flags & Flag.STREAM else _receive_descriptor
        with SignsOfLife(connection, frame.request_id):
            staged = await receive(connection, frame, request, hashed=hashed)
            info = await connection.store.put(key, staged, headers)
    else:
        staged = await _inline(connection, frame, request, hashed=hashed)
        info = await connection.store.put(key, staged, headers)
    connection.reply(encode_frame(Opcode.INFO, frame.request_id, head=encode_info(info)))


class SignsOfLife:
    """Sends an empty grant now and then: hashing and syncing a large object can outlast the peer's patience."""

    def __init__(self, connection: Connection, request_id: int) -> None:
        self._connection = connection
        self._request_id = request_id
        self._interval_s = connection.limits.progress_interval_s
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        self._timer = self._loop.call_later(self._interval_s, self._tick)

    def __exit__(self, *exc_info: object) -> None:
        self._timer.cancel()

    def _tick(self) -> None:
        if not self._connection.channel.is_congested:
            self._connection.reply(encode_frame(Opcode.WINDOW, self._request_id, extra=0))
        self._timer = self._loop.call_later(self._interval_s, self._tick)


def _check_metadata(request: PutRequest, limit: int) -> None:
    if not request.metadata and request.content_type is None:
        return
    size = metadata_bytes(request.content_type, request.metadata)
    if size > limit:
        raise TooLarge(f"content type and metadata have {size} bytes, more than the limit of {limit}")


async def _inline(connection: Connection, frame: Frame, request: PutRequest, *, hashed: bool) -> Staged:
    body = frame.body
    if request.size is not None and request.size != len(body):
        raise ProtocolError(f"a PUT of {request.size} bytes came with {len(body)}")
    connection.store.check_size(len(body))
    if len(body) <= INLINE_MAX_BYTES:
        return Staged.of_bytes(body, hashed=hashed)
    spool = connection.store.spool(len(body), hashed=hashed)
    try:
        await spool.write(body)
        return await spool.finish()
    except BaseException:
        await spool.abort()
        raise


async def _receive_stream(connection: Connection, frame: Frame, request: PutRequest, *, hashed: bool) -> Staged:
    """Take DATA frames; the peer is granted more only when what it sent has been written."""
    spool = connection.store.spool(request.size, hashed=hashed)
    upload = Upload(connection.limits.stall_timeout_s, by_descriptor=False)
    connection.transfers[frame.request_id] = upload
    try:
        upload.grant(STREAM_WINDOW_BYTES)
        connection.reply(encode_frame(Opcode.WINDOW, frame.request_id, extra=STREAM_WINDOW_BYTES))
        while (piece := await upload.piece()) is not None:
            await spool.write(piece)
            upload.grant(len(piece))
            connection.reply(encode_frame(Opcode.WINDOW, frame.request_id, extra=len(piece)))
        return await spool.finish()
    except BaseException:
        await spool.abort()
        raise
    finally:
        connection.transfers.pop(frame.request_id, None)


async def _receive_descriptor(connection: Connection, frame: Frame, request: PutRequest, *, hashed: bool) -> Staged:
    """Ask for the descriptor, look at what it is, and take the bytes accordingly."""
    if request.size is None:
        raise ProtocolError("an upload by descriptor announces its size")
    connection.store.check_size(request.size)
    upload = Upload(connection.limits.stall_timeout_s, by_descriptor=True)
    connection.transfers[frame.request_id] = upload
    connection.expect_descriptors(+1)
    try:
        connection.reply(encode_frame(Opcode.WINDOW, frame.request_id, extra=1))
        descriptor = await upload.descriptor()
    finally:
        connection.expect_descriptors(-1)
        connection.transfers.pop(frame.request_id, None)
    # In a thread: the file may lie on a file system that hangs.
    if await asyncio.to_thread(_is_sealed, descriptor, request.size):
        return await connection.store.adopt(_own_view(descriptor), request.size, hashed=hashed)
    return await connection.store.stage_file(descriptor, request.size, hashed=hashed)


def _is_sealed(descriptor: Descriptor, size: int) -> bool:
    """Whether these bytes can never change again; also refuse what cannot be read as a file."""
    status = os.fstat(descriptor.fd)
    if not stat.S_ISREG(status.st_mode):
        raise ProtocolError("an upload's descriptor must be a regular file or a memfd")
    if status.st_size != size:
        raise ProtocolError(f"the descriptor's file has {status.st_size} bytes, {size} were announced")
    if fcntl.fcntl(descriptor.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        raise PermissionDenied("the upload's descriptor is not open for reading")
    try:
        seals = fcntl.fcntl(descriptor.fd, fcntl.F_GET_SEALS)
    except OSError:  # only memfds know seals
        return False
    # Only what is allocated, and no more: a hole would be filled by reading it, and room beyond the end is kept
    # with the file; neither would be counted. What is not exactly so is copied.
    allocated = status.st_blocks * 512
    is_exact = size <= allocated <= -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    return seals & _SEALS == _SEALS and is_exact


def _own_view(descriptor: Descriptor) -> Descriptor:
    """Open a memfd anew, for reading: the peer shares the offset and the flags of the one it sent."""
    try:
        return Descriptor(os.open(f"/proc/self/fd/{descriptor.fd}", os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        raise PermissionDenied("the upload's memfd may not be opened for reading; its mode forbids it") from None
