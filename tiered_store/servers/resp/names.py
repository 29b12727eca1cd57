"""Where a Redis key is kept: any bytes become a name that the rules for keys allow, and no two the same.

Plain text stays readable. A key that would be too long for the name of a file is kept by its sha256.
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Final
from urllib.parse import quote_from_bytes

__all__ = ["name_of"]

#: A name is one segment below its fan-out, and a file system's names end at 255 bytes, some of which an origin adds.
_NAME_MAX_BYTES: Final = 200
#: Keys that are their own names; most are.
_PLAIN: Final = re.compile(rb"[A-Za-z0-9_:~-][A-Za-z0-9_.:~-]{0,199}\Z")


def name_of(key: bytes) -> str:
    """The name of a key.

    Letters, digits and ``_ . - ~ :`` stand for themselves, other bytes as ``%XX``, a slash too: ``a`` and ``a/b`` can
    then both be kept in a directory. Two digits before it spread the names over 256 directories. No escape begins
    with ``%s``, so that the name of a long key is no other key's.
    """
    return _remembered(key) if len(key) <= _NAME_MAX_BYTES else _name_of(key)


def _name_of(key: bytes) -> str:
    digest = hashlib.sha256(key).hexdigest()
    if _PLAIN.match(key):
        return f"{digest[:2]}/{key.decode('ascii')}"
    quoted = quote_from_bytes(key, safe=":")
    if len(quoted) > _NAME_MAX_BYTES or not quoted or quoted[0] == ".":
        quoted = f"%sha256-{digest}"
    return f"{digest[:2]}/{quoted}"


_remembered = functools.lru_cache(maxsize=8192)(_name_of)
