"""The errors a user of the store can meet.

This module imports nothing of the project: every other room raises these. They carry fields, not
formatted strings, and know neither wire codes nor HTTP statuses (see ``protocol/status.py``).

The tree, sorted by who has to act::

    StoreError
    |-- InvalidKey           the caller: the key breaks a rule, which the message names
    |-- NotFound             the caller: no object under that key
    |-- KeyConflict          the caller: one key is a path prefix of another and the origin is a directory
    |-- TooLarge             the caller: over a configured limit; refused before the bytes are taken
    |-- IntegrityError       whoever sent the bytes (``source``): they do not have the digest they claim
    |-- PermissionDenied     the operator: this user, or the daemon's user, may not do that
    |-- QuotaExceeded        the operator: the origin has no room left
    |-- OriginUnavailable    wait: the origin does not answer
    |-- DeadlineExceeded     wait longer: the answer was not there in the time given
    |-- ProtocolError        a bug in the client or the server: bytes that break the protocol
    `-- DaemonUnavailable    the operator: nobody listens on the socket, or the daemon refuses connections
"""

from __future__ import annotations

__all__ = [
    "DaemonUnavailable",
    "DeadlineExceeded",
    "IntegrityError",
    "InvalidKey",
    "KeyConflict",
    "NotFound",
    "OriginUnavailable",
    "PermissionDenied",
    "ProtocolError",
    "QuotaExceeded",
    "StoreError",
    "TooLarge",
]


class StoreError(Exception):
    """Any answer of the store that is not a success.

    Attributes:
        message: one sentence for a human, without the key.
        key: the key the request was about, or None.
        retryable: whether the same request may succeed later without anybody changing anything.
    """

    default_retryable = False

    def __init__(self, message: str, *, key: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.key = key
        self.retryable = self.default_retryable if retryable is None else retryable

    def __str__(self) -> str:
        return self.message if self.key is None else f"{self.message} (key {self.key!r})"


class InvalidKey(StoreError):
    """The key breaks a rule of ``key.py``; the message names the rule."""


class NotFound(StoreError):
    """There is no object under this key."""


class KeyConflict(StoreError):
    """One key is a path prefix of another (``a`` and ``a/b``) and the origin is a directory."""


class TooLarge(StoreError):
    """An object, its metadata or a request is over a limit."""


class IntegrityError(StoreError):
    """Bytes do not have the digest that they were announced with.

    Attributes:
        expected: the digest promised, 64 hex digits, or None.
        actual: the digest found, 64 hex digits, or None.
        source: where the bytes came from: ``"client"``, ``"disk"``, ``"cdn"`` or ``"origin"``.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        expected: str | None = None,
        actual: str | None = None,
        source: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, key=key, retryable=retryable)
        self.expected = expected
        self.actual = actual
        self.source = source


class PermissionDenied(StoreError):
    """The peer, or the daemon itself, may not do that."""


class QuotaExceeded(StoreError):
    """The origin, or the room for uploads, is full."""


class OriginUnavailable(StoreError):
    """The origin failed or did not answer, and no copy may be served in its place."""

    default_retryable = True


class DeadlineExceeded(StoreError):
    """The answer was not there within the time that the caller gave."""

    default_retryable = True


class ProtocolError(StoreError):
    """The other end sent bytes that break the protocol; the connection is closed."""


class DaemonUnavailable(StoreError):
    """No daemon answers on the socket, or it refuses further connections."""

    default_retryable = True
