from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tiered_store.errors import (
    IntegrityError,
    InvalidKey,
    KeyConflict,
    NotFound,
    OriginUnavailable,
    PermissionDenied,
    QuotaExceeded,
    StoreError,
    TooLarge,
)
from tiered_store.origins.localerrors import error_of, translated

ROOT = Path("/srv/objects")


def told(number: int, operation: str = "put") -> StoreError:
    return error_of(OSError(number, os.strerror(number)), operation, "a/b", ROOT)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, QuotaExceeded),
        (errno.EDQUOT, QuotaExceeded),
        (errno.EACCES, PermissionDenied),
        (errno.EPERM, PermissionDenied),
        (errno.EROFS, PermissionDenied),
        (errno.ENAMETOOLONG, InvalidKey),
        (errno.ENOTDIR, KeyConflict),
        (errno.EISDIR, KeyConflict),
        (errno.ENOTEMPTY, KeyConflict),
        (errno.EFBIG, TooLarge),
        (errno.EIO, OriginUnavailable),
        (errno.ESTALE, OriginUnavailable),
        (errno.ETIMEDOUT, OriginUnavailable),
        (errno.EMFILE, OriginUnavailable),
        (errno.ENFILE, OriginUnavailable),
        (errno.ENOENT, OriginUnavailable),
        (errno.EXDEV, OriginUnavailable),
    ],
)
def test_what_a_writer_is_told(number: int, kind: type[StoreError]) -> None:
    error = told(number)
    assert type(error) is kind
    assert error.key == "a/b"
    assert error.retryable is (kind is OriginUnavailable and number != errno.EXDEV)


@pytest.mark.parametrize("operation", ["stat", "open", "list"])
@pytest.mark.parametrize(
    "number", [errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.ENAMETOOLONG]
)
def test_what_a_reader_does_not_find(operation: str, number: int) -> None:
    assert type(told(number, operation)) is NotFound


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_reader_is_not_told_that_what_cannot_be_read_is_missing(number: int) -> None:
    assert type(told(number, "open")) is OriginUnavailable


def test_messages_say_where_and_what_to_do() -> None:
    assert "/srv/objects is full: delete objects" in told(errno.ENOSPC).message
    assert "quota" in told(errno.EDQUOT).message
    assert f"uid {os.geteuid()} may not put /srv/objects/a/b: Permission denied" in told(errno.EACCES).message
    assert "255 bytes" in told(errno.ENAMETOOLONG).message
    assert "put of /srv/objects/a/b failed: Input/output error" in told(errno.EIO).message
    assert "this daemon's limit (LimitNOFILE, ulimit -n)" in told(errno.EMFILE, "open").message
    assert "the system's limit (fs.file-max)" in told(errno.ENFILE).message
    assert "one file system" in told(errno.EXDEV).message


def test_the_cause_is_kept() -> None:
    with pytest.raises(OriginUnavailable) as caught, translated("open", "a", ROOT):
        raise OSError(errno.EIO, "broken")
    assert isinstance(caught.value.__cause__, OSError)


def test_a_short_body_is_its_senders_fault() -> None:
    with pytest.raises(IntegrityError) as caught, translated("put", "a", ROOT):
        raise EOFError("the source ends 3 bytes early")
    assert caught.value.key == "a"


def test_errors_of_the_store_pass() -> None:
    with pytest.raises(NotFound, match="as it was"), translated("put", "a", ROOT):
        raise NotFound("as it was")
