"""Errors as problem documents (RFC 9457): one table between the errors' tree and HTTP statuses.

A problem's ``code`` is the name of the error's class, the same that clients of the native door raise; what only HTTP
can get wrong has codes of its own, here as a :class:`Refusal`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

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

__all__ = ["PROBLEM_TYPE", "Refusal", "problem_of", "refusal_of", "status_of"]

PROBLEM_TYPE: Final = "application/problem+json"

_STATUSES: Final[dict[type[StoreError], int]] = {
    NotFound: 404,
    InvalidKey: 400,
    KeyConflict: 409,
    TooLarge: 413,
    IntegrityError: 502,
    PermissionDenied: 403,
    QuotaExceeded: 507,
    OriginUnavailable: 503,
    DeadlineExceeded: 504,
    ProtocolError: 400,
    DaemonUnavailable: 503,
    StoreError: 500,
}
#: When a client may ask again for what failed for now; the breaker round an origin tries it again about as often.
_RETRY_AFTER_S: Final = "2"
_TEXT_MAX: Final = 1024


class Refusal(Exception):
    """An answer that is no success, and which the store knows nothing of.

    Args:
        status: the HTTP status.
        code: the problem's ``code``.
        detail: one sentence for a human.
        headers: further headers of the answer.
        closes: whether the connection must end with it, because what the peer sends next cannot be understood.
        fields: further ones of the problem document.
        is_of_right: whether it is for want of a right.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        closes: bool = False,
        fields: Mapping[str, Any] | None = None,
        is_of_right: bool = False,
    ) -> None:
        super().__init__(detail)
        self.is_of_right = is_of_right
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.closes = closes
        self.fields = dict(fields or {})


def status_of(error: StoreError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, IntegrityError) and error.source == "client":
        return 422
    return next((_STATUSES[cls] for cls in type(error).__mro__ if cls in _STATUSES), 500)


def refusal_of(error: StoreError) -> Refusal:
    """The answer to a request that ended with an error of the store."""
    fields: dict[str, Any] = {"retryable": error.retryable}
    if error.key is not None:
        fields["key"] = error.key[:_TEXT_MAX]
    if isinstance(error, IntegrityError):
        detail = {"expected": error.expected, "actual": error.actual, "source": error.source}
        fields.update({name: value for name, value in detail.items() if value is not None})
    headers = {"Retry-After": _RETRY_AFTER_S} if error.retryable else {}
    return Refusal(status_of(error), type(error).__name__, error.message[:_TEXT_MAX], headers=headers, fields=fields)


def problem_of(refusal: Refusal) -> bytes:
    """The document. ``type`` is left out, which means "about:blank": the status and ``code`` say what is wrong."""
    try:
        title = HTTPStatus(refusal.status).phrase
    except ValueError:
        title = refusal.code
    document = {"title": title, "status": refusal.status, "detail": refusal.detail, "code": refusal.code}
    return json.dumps({**document, **refusal.fields}).encode()
