"""What an object of a bucket says of itself in headers: version, content type, metadata, digest.

Headers of S3 reach readers on two ways: from the server itself (``origins/s3headers.py``, which also writes them), and
through a CDN before the bucket, where they are plain HTTP. Both have to come to the same information. Knows texts and
no SDK.

What this program writes beside the metadata of a caller is in fields of its own: the body's sha256; a version, which
each put draws anew, because S3's ETag tells bytes apart and not two versions with equal bytes; and, where metadata
would not come back as it was, all of it as JSON. What others wrote is shown as it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from tiered_store.objects import ObjectInfo

__all__ = ["DIGEST_FIELD", "JSON_FIELD", "NO_TYPE", "OURS", "VERSION_FIELD", "digest_in_fields", "etag_with", "told"]

#: Our own fields among the user metadata: names that nobody else is likely to choose.
DIGEST_FIELD: Final = "tiered-store-sha256"
JSON_FIELD: Final = "tiered-store-json"
VERSION_FIELD: Final = "tiered-store-version"
OURS: Final = frozenset({DIGEST_FIELD, JSON_FIELD, VERSION_FIELD})
#: What S3 itself says of an object whose writer said nothing.
NO_TYPE: Final = "binary/octet-stream"

_VERSION: Final = re.compile(r"[0-7][0-9a-f]{23}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def told(
    name: str, size: int, *, etag: str, content_type: str | None, fields: Mapping[str, str], modified_ns: int
) -> ObjectInfo:
    """The information of an object.

    Args:
        name: the object's.
        size: bytes, of the whole object.
        etag: the server's, as its header says it.
        content_type: the header's.
        fields: user metadata, by its names in lower case.
        modified_ns: the server's; ours wins where there is one, S3 keeps whole seconds.
    """
    own_type, metadata = _metadata_of(content_type, fields)
    return ObjectInfo(name, size, etag_with(etag, fields), own_type, metadata, _version_ns(fields) or modified_ns)


def etag_with(etag: str, fields: Mapping[str, str]) -> str:
    """The version: the server's ETag without its quotes, and our number where there is one."""
    version = fields.get(VERSION_FIELD, "")
    bare = etag.strip('"')
    return f"{bare}.{version}" if version else bare


def digest_in_fields(fields: Mapping[str, str]) -> str | None:
    """The sha256 that this program wrote beside the object, if it did."""
    digest = fields.get(DIGEST_FIELD, "")
    return digest if _SHA256.fullmatch(digest) else None


def _metadata_of(content_type: str | None, fields: Mapping[str, str]) -> tuple[str | None, dict[str, str]]:
    """Content type and user metadata, as their writer gave them."""
    packed = fields.get(JSON_FIELD)
    if packed is not None:
        try:
            both = json.loads(packed)
            own_type, metadata = both["type"], both["metadata"]
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # somebody else's field of that name: shown with the others
        else:
            texts = [*metadata, *metadata.values()] if isinstance(metadata, dict) else [None]
            if all(isinstance(text, str) for text in texts) and isinstance(own_type, str | None):
                return own_type, metadata
    rest = {field: value for field, value in fields.items() if field not in {DIGEST_FIELD, VERSION_FIELD}}
    return (None if content_type == NO_TYPE else content_type), rest


def _version_ns(fields: Mapping[str, str]) -> int:
    version = fields.get(VERSION_FIELD, "")
    return int(version[:16], 16) if _VERSION.fullmatch(version) else 0
