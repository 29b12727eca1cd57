"""Where a Redis key is kept: any bytes become a name that the rules for keys allow, and no two the same.

Plain text stays readable. A key that would be too long for the name of a file is kept by its sha256.
"""

from __future__ import annotations

import hashlib
from typing import Final
from urllib.parse import quote_from_bytes

__all__ = ["name_of"]

#: A name is one segment below its fan-out, and a file system's names end at 255 bytes, some of which an origin adds.
_NAME_MAX_BYTES: Final = 200


def name_of(key: bytes) -> str:
    """The name of a key.

    Letters, digits and ``_ . - ~ :`` stand for themselves, other bytes as ``%XX``, a slash too: ``a`` and ``a/b`` can
    then both be kept in a directory. Two digits before it spread the names over 256 directories. No escape begins
    with ``%s``, so that the name of a long key is no other key's.
    """
    digest = hashlib.sha256(key).hexdigest()
    quoted = quote_from_bytes(key, safe=":")
    if len(quoted) > _NAME_MAX_BYTES or not quoted or quoted[0] == ".":
        quoted = f"%sha256-{digest}"
    return f"{digest[:2]}/{quoted}"
