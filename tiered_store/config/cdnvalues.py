"""How the values of a cdn are written: its URLs, and the headers that go with each request.

As in ``values``: each parser raises ``ValueError`` with a sentence that says what would be accepted. The invariant is
that no sentence repeats what may hold a secret: a URL, in which people write credentials, or a header's value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, PlainSerializer, PlainValidator, SecretStr

__all__ = ["CdnUrl", "Headers"]

_HOST = re.compile(r"[A-Za-z0-9._:-]+", re.ASCII)
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)*", re.ASCII)
#: A "token" of RFC 9110.
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}", re.ASCII)
_VALUE = re.compile(r"[\t -~]{0,4096}", re.ASCII)
#: What each request says for itself; another word for it would make answers that are not understood.
_OURS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def parse_cdn_url(value: object) -> object:
    """``https://host[:port][/path]`` or ``http://``; empty for none. A "/" at the end is left out."""
    if not isinstance(value, str) or not value:
        return value
    try:
        parts = urlsplit(value)
        if parts.port == 0:  # a property that judges it
            raise ValueError
    except ValueError:
        raise ValueError("is no URL that can be reached; write it as 'https://host' or 'https://host/path'") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must begin with 'https://' (or 'http://') and a host; write it as 'https://host/path'")
    if "@" in parts.netloc:
        raise ValueError("must not hold credentials; remove them here, and set a header in cdn.headers")
    if "?" in value or "#" in value:
        raise ValueError("must have no query and no fragment: names of objects are put behind it")
    path = parts.path.rstrip("/")
    if not _HOST.fullmatch(parts.hostname) or not _PATH.fullmatch(path):
        raise ValueError("must be ASCII, with other characters percent-encoded, and no empty segment in its path")
    if {".", ".."} & set(path.split("/")):
        raise ValueError("must have no '.' or '..' in its path")
    return f"{parts.scheme}://{parts.netloc.removesuffix(':')}{path}"


def parse_headers(value: object) -> Mapping[str, SecretStr]:
    """Headers by name.

    Raises:
        ValueError: for what is no table of texts, no name or value that HTTP takes, or a header of our own.
    """
    if not isinstance(value, Mapping):
        raise ValueError("must be a table such as { 'X-Token' = 'abc' }")  # noqa: TRY004 - pydantic makes faults of ValueErrors only
    texts: dict[str, SecretStr] = {}
    for name, text in value.items():
        if not isinstance(name, str) or not _HEADER.fullmatch(name):
            raise ValueError(f"has a name that is none of a header: {name!r}; write it as 'X-Token'")
        if name.lower() in _OURS:
            raise ValueError(f"must not set {name!r}, which each request says for itself; remove it")
        plain = text.get_secret_value() if isinstance(text, SecretStr) else text
        if not isinstance(plain, str) or not _VALUE.fullmatch(plain):
            raise ValueError(f"of {name!r} must be a text of printable ASCII, 4096 characters at most; copy it anew")
        texts[name] = SecretStr(plain)
    if len({name.lower() for name in value}) < len(value):
        raise ValueError("has a name twice: the case of a header's name does not matter")
    return MappingProxyType(texts)


CdnUrl = Annotated[str, BeforeValidator(parse_cdn_url)]
Headers = Annotated[Mapping[str, SecretStr], PlainValidator(parse_headers), PlainSerializer(dict)]
