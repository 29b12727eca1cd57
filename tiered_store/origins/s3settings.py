"""What an S3 origin is told: bucket, place, credentials, sizes. Values only; nothing here speaks to a server.

Which place follows from a provider's name is the configuration's business: here all of it is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["S3Settings"]

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class S3Settings:
    """One bucket.

    Attributes:
        bucket: its name.
        prefix: stands before every name in the bucket; empty, or ending in "/".
        endpoint_url: where the server listens; None for AWS.
        region: what signatures name; None to ask the SDK's configuration.
        path_style: whether the bucket is named in the path.
        access_key_id, secret_access_key, session_token: credentials; without, the SDK's chain is asked
            (environment, profile, container, instance), and asked again when they expire.
        sse: server-side encryption, ``"AES256"`` or ``"aws:kms"``; empty for the bucket's default.
        sse_kms_key_id: the key for ``"aws:kms"``; empty for the account's default.
        storage_classes: storage class by prefix of the name; the longest that fits counts.
        max_connections: open to the server at once.
        connect_timeout_s, read_timeout_s: how long a connection may take, and how long a server may say nothing.
        part_bytes: size of one part; larger objects are sent and read in parts.
        parts_at_once: parts of all uploads on their way at once, and as many ahead of all readers; each is in memory.
    """

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool = False
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    sse: str = ""
    sse_kms_key_id: str = ""
    storage_classes: Mapping[str, str] = field(default_factory=dict)
    max_connections: int = 64
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 20.0
    part_bytes: int = 8 * _MIB
    parts_at_once: int = 8
