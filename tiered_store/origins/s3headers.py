"""An object's information as S3 headers, and back.

S3 keeps user metadata in HTTP headers: names lose their case, values must be ASCII, and white space round them goes.
Metadata that would not come back as it was is sent as JSON in one field of ours; whatever others wrote is shown as it
stands. The body's sha256 travels in a field of its own, so that what this program wrote can be verified whenever it is
read. So does a version that each put draws anew, from its time and chance. What a reader makes of all that is in
``s3fields``.
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
from tiered_store.origins.s3errors import needed
from tiered_store.s3fields import (
    DIGEST_FIELD,
    JSON_FIELD,
    NO_TYPE,
    OURS,
    VERSION_FIELD,
    digest_in_fields,
    etag_with,
    told,
)

__all__ = ["digest_in", "etag_of", "info_of", "modified_ns", "put_arguments", "written_info"]

_PLAIN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]*", re.ASCII)
_PLAIN_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?", re.ASCII)


def put_arguments(headers: PutHeaders, digest: str | None) -> dict[str, Any]:
    """``ContentType`` and ``Metadata`` of a request that writes a new version."""
    content_type, metadata = headers.content_type, headers.metadata
    said: dict[str, str] = {}
    is_plain = all(
        _PLAIN_NAME.fullmatch(name) and name not in OURS and _PLAIN_VALUE.fullmatch(value)
        for name, value in metadata.items()
    )
    type_is_plain = content_type is None or _PLAIN_VALUE.fullmatch(content_type) is not None
    if is_plain and type_is_plain and content_type != NO_TYPE:
        said.update(metadata)
    else:
        said[JSON_FIELD] = json.dumps({"type": content_type, "metadata": metadata}, separators=(",", ":"))
    said[VERSION_FIELD] = f"{time.time_ns():016x}{secrets.token_hex(4)}"
    if digest is not None:
        said[DIGEST_FIELD] = digest
    sent_type = content_type if content_type is not None and type_is_plain else NO_TYPE
    return {"ContentType": sent_type, "Metadata": said}


def info_of(name: str, answer: Mapping[str, Any], size: int | None = None) -> ObjectInfo:
    """What a HEAD or GET says of an object.

    Args:
        name: the object's.
        answer: the SDK's.
        size: of the whole object, where the answer is about a range of it.
    """
    return told(
        name,
        int(needed(answer, "ContentLength")) if size is None else size,
        etag=str(answer.get("ETag", "")),
        content_type=answer.get("ContentType"),
        fields=_fields_of(answer),
        modified_ns=modified_ns(answer.get("LastModified")),
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
    return etag_with(str(answer.get("ETag", "")), said)


def digest_in(answer: Mapping[str, Any]) -> str | None:
    """The sha256 that this program wrote beside the object, if it did."""
    return digest_in_fields(_fields_of(answer))


def _fields_of(answer: Mapping[str, Any]) -> dict[str, str]:
    return {field.lower(): value for field, value in answer.get("Metadata", {}).items()}


def modified_ns(when: datetime | None) -> int:
    """Nanoseconds since the epoch, of what the SDK gives; 0 where there is none."""
    return 0 if when is None else int(when.timestamp()) * 1_000_000_000
