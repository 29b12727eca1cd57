"""What is known of an object, as header fields, and back.

Pure. User metadata travels as ``x-meta-*``. HTTP allows printable ASCII there and nothing else, so other characters are
percent-encoded as UTF-8, and so is a ``%`` that would be taken for such; what a client sends is read the same way, and
comes back as it was.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from multidict import CIMultiDictProxy

from tiered_store.key import Key, digest_of, is_artifact
from tiered_store.objects import ObjectInfo
from tiered_store.origins.base import PutHeaders
from tiered_store.servers.http.problems import Refusal
from tiered_store.store.policy import Policy

__all__ = ["described", "disposition", "etag_of", "object_fields", "put_headers"]

META_PREFIX: Final = "x-meta-"
DEFAULT_TYPE: Final = "application/octet-stream"

_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+\-.^_`|~]+\Z")
_PLAIN_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?\Z|\Z")
_TYPE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?\Z")
_ESCAPED: Final = re.compile(r"%(?=[0-9A-Fa-f]{2})|[^ -~]|\A +| +\Z")
_ESCAPE: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
#: Nobody's cache forgets sooner than this, a year, anyway.
_IMMUTABLE: Final = "max-age=31536000, immutable"
#: Whoever may write can store a page. A browser that is shown it takes it for what it is said to be and nothing else,
#: and its scripts for nobody's: they cannot speak to this door as if they were from here.
_AS_STORED: Final = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
#: May be kept, but asked about before it is used again: another client's write must be seen.
_CHANGING: Final = "no-cache"


def etag_of(info: ObjectInfo) -> str:
    """The entity tag, quoted: of an artifact its digest, wherever it lies; of others the origin's version."""
    key = Key(info.key)
    if is_artifact(key):
        return f'"sha256-{digest_of(key)}"'
    return f'"{quote(info.etag, safe="!#$&()*+,/:;<=>?@[]^_`{|}~.-")}"'


def object_fields(info: ObjectInfo, policy: Policy) -> dict[str, str]:
    """The header fields of an object, whoever answers."""
    key = Key(info.key)
    content_type = info.content_type or DEFAULT_TYPE
    fields = {
        "Content-Type": content_type if _TYPE.match(content_type) else DEFAULT_TYPE,
        "ETag": etag_of(info),
        "Last-Modified": formatdate(info.modified_ns // 1_000_000_000, usegmt=True),
        "Accept-Ranges": "bytes",
        "Cache-Control": _IMMUTABLE if policy.immutable else _CHANGING,
        **_AS_STORED,
    }
    if is_artifact(key):
        digest = base64.b64encode(bytes.fromhex(digest_of(key))).decode()
        fields["Repr-Digest"] = f"sha-256=:{digest}:"
    if info.metadata:
        shown = {name.lower(): value for name, value in info.metadata.items() if _NAME.match(name.lower())}
        fields.update({META_PREFIX + name: _escaped(value) for name, value in shown.items()})
        if len(shown) < len(info.metadata):  # names that no header field can have
            fields["x-missing-meta"] = str(len(info.metadata) - len(shown))
    return fields


def put_headers(headers: CIMultiDictProxy[str]) -> PutHeaders:
    """What the sender of an object says of it.

    Raises:
        Refusal: a piece of metadata comes twice, or is not UTF-8 when it is decoded.
    """
    metadata: dict[str, str] = {}
    for name, value in headers.items():
        lowered = name.lower()
        if not lowered.startswith(META_PREFIX) or lowered == META_PREFIX:
            continue
        short = lowered[len(META_PREFIX) :]
        if short in metadata:
            raise Refusal(400, "BadHeader", f"{lowered} comes twice")
        try:
            metadata[short] = _ESCAPE.sub(lambda found: unquote_to_bytes(found[0]).decode(), value)
            metadata[short].encode()  # bytes that are not UTF-8 arrive as lone surrogates
        except UnicodeError:
            raise Refusal(400, "BadHeader", f"{lowered} must be UTF-8, percent-encoded where not ASCII") from None
    return PutHeaders(headers.get("Content-Type"), metadata)


def _escaped(value: str) -> str:
    if _PLAIN_VALUE.match(value) and "%" not in value:
        return value
    return _ESCAPED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), value)


def disposition(key: Key, name: str) -> str:
    """A ``Content-Disposition`` that has browsers save the object; an empty ``name`` is the key's last segment."""
    name = re.sub(r"[\x00-\x1f\x7f/\\]", "_", name or key.rpartition("/")[2])
    plain = re.sub(r"[^ !#-\[\]-~]|%", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def described(infos: Iterable[ObjectInfo]) -> list[dict[str, Any]]:
    """Objects as JSON has them."""
    return [
        {
            "key": info.key,
            "size": info.size,
            "etag": etag_of(info),
            "content_type": info.content_type,
            "metadata": info.metadata,
            "modified": info.modified.isoformat(),
        }
        for info in infos
    ]
