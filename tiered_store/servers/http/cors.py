"""Cross-origin requests of pages (the Fetch standard's CORS protocol): none, but for the origins that are configured.

Pure: from a request's headers to those that answers carry.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from multidict import CIMultiDictProxy

__all__ = ["answer_headers", "preflight_headers"]

_NONE: Final[Mapping[str, str]] = {}
_METHODS: Final = "GET, HEAD, PUT, POST, DELETE"
#: What a page's request may carry beside what any may; user metadata has names that nobody knows before.
_REQUEST_HEADERS: Final = frozenset(
    {"authorization", "content-type", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "range"}
)
_METADATA_PREFIX: Final = "x-meta-"
#: How long a browser may remember the answer, in seconds.
_REMEMBERED_S: Final = "600"


def answer_headers(headers: CIMultiDictProxy[str], origins: Collection[str]) -> Mapping[str, str]:
    """What every answer to this request carries, so that the page that sent it may read it."""
    if not origins:
        return _NONE
    origin = headers.get("Origin")
    if origin is None or origin not in origins:
        return {"Vary": "Origin"}
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": "*", "Vary": "Origin"}


def preflight_headers(
    method: str, headers: CIMultiDictProxy[str], origins: Collection[str]
) -> Mapping[str, str] | None:
    """The answer to a browser that asks whether a page may send a request; None where this is no such question.

    A page that may not is told nothing, by which its browser knows.
    """
    origin = headers.get("Origin")
    if method != "OPTIONS" or origin not in origins or "Access-Control-Request-Method" not in headers:
        return None
    wanted = [name.strip().lower() for name in headers.get("Access-Control-Request-Headers", "").split(",")]
    allowed = [name for name in wanted if name in _REQUEST_HEADERS or name.startswith(_METADATA_PREFIX)]
    said = {"Access-Control-Allow-Methods": _METHODS, "Access-Control-Max-Age": _REMEMBERED_S}
    return {**said, "Access-Control-Allow-Headers": ", ".join(allowed)} if allowed else said
