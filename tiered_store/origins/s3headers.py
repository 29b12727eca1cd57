"""An object's information as S3 headers, and back.

S3 keeps user metadata in HTTP headers: names lose their case, values must be ASCII, and white space round them goes.
Metadata that would not come back as it was is sent as JSON in one field of ours; whatever others wrote is shown as it
stands. The body's sha256 travels in a field of its own, so that what this program wrote can be verified whenever it is
read. So does a version that each put draws anew, from its time and chance: S3's own ETag tells bytes apart, but not two
versions with equal bytes and other metadata, and a version's etag has to. It also tells the time better than S3's whole
seconds.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from tiered_store.objects import ObjectInfo
from tiered_store.origins.base import PutHeaders

__all__ = ["digest_in", "etag_of", "info_of", "modified_ns", "put_arguments", "written_info"]

#: Our own fields among the user metadata: names that nobody else is likely to choose.
_DIGEST_FIELD: Final = "tiered-store-sha256"
_JSON_FIELD: Final = "tiered-store-json"
_VERSION_FIELD: Final = "tiered-store-version"
_OURS: Final = frozenset({_DIGEST_FIELD, _JSON_FIELD, _VERSION_FIELD})
#: What S3 itself says of an object whose writer said nothing. Sent as such, because servers guess otherwise.
_NO_TYPE: Final = "binary/octet-stream"

_PLAIN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]*", re.ASCII)
_PLAIN_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?", re.ASCII)
_VERSION: Final = re.compile(r"[0-7][0-9a-f]{23}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def put_arguments(headers: PutHeaders, digest: str | None) -> dict[str, Any]:
    """``ContentType`` and ``Metadata`` of a request that writes a new version."""
    content_type, metadata = headers.content_type, headers.metadata
    said: dict[str, str] = {}
    is_plain = all(
        _PLAIN_NAME.fullmatch(name) and name not in _OURS and _PLAIN_VALUE.fullmatch(value)
        for name, value in metadata.items()
    )
    type_is_plain = content_type is None or _PLAIN_VALUE.fullmatch(content_type) is not None
    if is_plain and type_is_plain and content_type != _NO_TYPE:
        said.update(metadata)
    else:
        said[_JSON_FIELD] = json.dumps({"type": content_type, "metadata": metadata}, separators=(",", ":"))
    said[_VERSION_FIELD] = f"{time.time_ns():016x}{secrets.token_hex(4)}"
    if digest is not None:
        said[_DIGEST_FIELD] = digest
    sent_type = content_type if content_type is not None and type_is_plain else _NO_TYPE
    return {"ContentType": sent_type, "Metadata": said}


def info_of(name: str, answer: Mapping[str, Any], size: int | None = None) -> ObjectInfo:
    """What a HEAD or GET says of an object.

    Args:
        name: the object's.
        answer: the SDK's.
        size: of the whole object, where the answer is about a range of it.
    """
    said: Mapping[str, str] = {field.lower(): value for field, value in answer.get("Metadata", {}).items()}
    content_type, metadata = _metadata_of(answer.get("ContentType"), said)
    return ObjectInfo(
        name,
        int(answer["ContentLength"]) if size is None else size,
        etag_of(answer, said),
        content_type,
        metadata,
        _version_ns(said) or modified_ns(answer.get("LastModified")),
    )


def written_info(name: str, size: int, etag: str, arguments: Mapping[str, Any]) -> ObjectInfo:
    """What a write has made: as :func:`info_of` will say of it, without asking.

    Args:
        name: the object's.
        size: bytes.
        etag: the server's.
        arguments: what :func:`put_arguments` gave for it.
    """
    return info_of(name, {**arguments, "ETag": etag, "ContentLength": size})


def etag_of(answer: Mapping[str, Any], said: Mapping[str, str]) -> str:
    """The version: the server's ETag without its quotes, and our number where there is one."""
    etag = str(answer.get("ETag", "")).strip('"')
    version = said.get(_VERSION_FIELD, "")
    return f"{etag}.{version}" if version else etag


def digest_in(answer: Mapping[str, Any]) -> str | None:
    """The sha256 that this program wrote beside the object, if it did."""
    for field, value in answer.get("Metadata", {}).items():
        if field.lower() == _DIGEST_FIELD and _SHA256.fullmatch(value):
            return str(value)
    return None


def _metadata_of(content_type: str | None, said: Mapping[str, str]) -> tuple[str | None, dict[str, str]]:
    """Content type and user metadata, as their writer gave them."""
    packed = said.get(_JSON_FIELD)
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
    rest = {field: value for field, value in said.items() if field not in {_DIGEST_FIELD, _VERSION_FIELD}}
    return (None if content_type == _NO_TYPE else content_type), rest


def _version_ns(said: Mapping[str, str]) -> int:
    version = said.get(_VERSION_FIELD, "")
    return int(version[:16], 16) if _VERSION.fullmatch(version) else 0


def modified_ns(when: datetime | None) -> int:
    """Nanoseconds since the epoch, of what the SDK gives; 0 where there is none."""
    return 0 if when is None else int(when.timestamp()) * 1_000_000_000
