"""The HTTP client of the cdn: one session, and what every request of it has in common.

The home of aiohttp, with what asks through it; wiring imports them only where a cdn is configured. Nothing of this
machine goes with a request: no cookies, no netrc, no proxy from the environment. Time is kept by whoever asks.
"""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp

__all__ = ["open_session", "said"]

#: What an answer's head may have: lines of this size, and so many of them. CloudFront's longest is some 2 KiB.
_LINE_MAX_BYTES = 8190
_HEADERS_MAX = 128
_AGENT = "tiered_store"


def open_session(headers: Mapping[str, str]) -> aiohttp.ClientSession:
    """A session whose requests carry these headers and ask for bytes as they are; to be made in the event loop.

    It does not bound its connections: its users do, because waiting for one is no fault of the other side.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        headers={"User-Agent": _AGENT, **headers, "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        max_line_size=_LINE_MAX_BYTES,
        max_field_size=_LINE_MAX_BYTES,
        max_headers=_HEADERS_MAX,
    )


def said(error: BaseException) -> str:
    """One phrase for the log, without the request's headers, which may hold a secret."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}"[:300]
