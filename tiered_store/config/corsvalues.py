"""How the origins of pages are written: as browsers send them in ``Origin`` (RFC 6454, section 6.2)."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

__all__ = ["CorsOrigins"]

_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
_USUAL_PORTS = ("http://", ":80"), ("https://", ":443")


def parse_cors_origins(value: object) -> tuple[str, ...]:
    """A list of origins, each as it stands in ``Origin``: in lower case, and without the scheme's own port.

    Raises:
        ValueError: it is none, or has what no browser would send.
    """
    if not isinstance(value, list | tuple):
        raise ValueError('must be a list of origins such as ["https://ci.example.com"]')  # noqa: TRY004 - pydantic makes faults of ValueErrors only
    as_sent = "must be origins as browsers send them, such as 'https://ci.example.com'"
    for origin in value:
        if origin == "*":
            raise ValueError("must name each origin: '*' would let in every page on the web")
        if not isinstance(origin, str) or not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{as_sent}, lower case and without a path, not {origin!r}")
        if any(origin.startswith(scheme) and origin.endswith(port) for scheme, port in _USUAL_PORTS):
            raise ValueError(f"{as_sent}, without the scheme's own port, not {origin!r}")
    return tuple(value)


CorsOrigins = Annotated[tuple[str, ...], BeforeValidator(parse_cors_origins)]
