"""Errors on the wire: one table between the classes of ``errors.py`` and status codes."""

from __future__ import annotations

import json
from typing import Final

from tiered_store.errors import (
    DaemonUnavailable,
    DeadlineExceeded,
    IntegrityError,
    InvalidKey,
    KeyConflict,
    NotFound,
    OriginUnavailable,
    PermissionDenied,
    ProtocolError,
    QuotaExceeded,
    StoreError,
    TooLarge,
)
from tiered_store.protocol.frames import Flag, Frame, Opcode, encode_frame

__all__ = [
    "STATUS_NOT_FOUND",
    "decode_error",
    "describe_error",
    "encode_error",
    "error_described",
    "error_of_status",
    "status_of_error",
]

#: Codes are never reused. 1-19: the request; 20-39: the store's surroundings; 40-59: the connection.
_CLASSES: Final[dict[int, type[StoreError]]] = {
    1: NotFound,
    2: InvalidKey,
    3: KeyConflict,
    4: TooLarge,
    5: IntegrityError,
    6: PermissionDenied,
    20: QuotaExceeded,
    21: OriginUnavailable,
    22: DeadlineExceeded,
    40: ProtocolError,
    41: DaemonUnavailable,
    255: StoreError,
}
_CODES: Final = {cls: code for code, cls in _CLASSES.items()}
STATUS_NOT_FOUND: Final = 1
_TEXT_MAX: Final = 4096


def status_of_error(error: StoreError) -> int:
    """The code of an error; 255 for one that has none of its own."""
    return next((_CODES[cls] for cls in type(error).__mro__ if cls in _CODES), 255)


def error_of_status(status: int, message: str, *, key: str | None = None, retryable: bool = False) -> StoreError:
    """The error for a code; codes this version does not know become a plain ``StoreError``."""
    return _CLASSES.get(status, StoreError)(message, key=key, retryable=retryable)


def describe_error(error: StoreError, *, max_chars: int = _TEXT_MAX, with_key: bool = True) -> bytes:
    """An error's fields as JSON; ``max_chars`` bounds the message and the key, each."""
    fields: dict[str, str] = {"message": error.message[:max_chars]}
    if with_key and error.key is not None:
        fields["key"] = error.key[:max_chars]
    if isinstance(error, IntegrityError):
        detail = {"expected": error.expected, "actual": error.actual, "source": error.source}
        fields.update({name: value for name, value in detail.items() if value is not None})
    # json escapes what is not ASCII, lone surrogates of a bad key included, so any error can be sent.
    return json.dumps(fields).encode()


def error_described(status: int, raw: bytes, *, key: str | None = None, retryable: bool = False) -> StoreError:
    """The error that a status and :func:`describe_error` tell; a damaged description is itself the error.

    Args:
        status: the code.
        raw: the description.
        key: the key, where the description leaves it out.
        retryable: see ``StoreError``.
    """
    try:
        fields = json.loads(raw)
        message = str(fields["message"])
        texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ProtocolError(f"an error with status {status} could not be read")
    key = texts.get("key", key)
    if _CLASSES.get(status) is IntegrityError:
        detail = {name: texts.get(name) for name in ("expected", "actual", "source")}
        return IntegrityError(message, key=key, retryable=retryable, **detail)
    return error_of_status(status, message, key=key, retryable=retryable)


def encode_error(request_id: int, error: StoreError) -> bytes:
    """An ERROR frame."""
    return encode_frame(
        Opcode.ERROR,
        request_id,
        body=describe_error(error),
        flags=Flag.RETRYABLE if error.retryable else 0,
        extra=status_of_error(error),
    )


def decode_error(frame: Frame) -> StoreError:
    """The error that an ERROR frame carries; a frame that is damaged is itself the error."""
    return error_described(frame.extra, frame.body, retryable=bool(frame.flags & Flag.RETRYABLE))
