"""Every setting, its type, its default and the bounds it must keep by itself.

What depends on two settings or on the machine is in ``checks``; where values come from is in
``sources``. The invariant: an instance is immutable and every value in it has its final form (sizes in
bytes, durations in seconds, absolute paths).

``config/tiered_store.toml`` explains each setting to the operator; a test keeps the two in step.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr

from tiered_store.config.accessmodel import AccessSection, InstanceRules
from tiered_store.config.cdnvalues import CdnUrl, Headers
from tiered_store.config.httpmodel import HttpSection
from tiered_store.config.s3values import (
    Bucket,
    Credential,
    EndpointUrl,
    HostLabel,
    OptionalBool,
    S3Prefix,
    StorageClasses,
    Word,
)
from tiered_store.config.section import Section
from tiered_store.config.values import AbsolutePath, ByteSize, Ids, Instance, Mode, OptionalPath, Seconds

__all__ = [
    "SECTIONS",
    "BuildSection",
    "CdnSection",
    "Config",
    "CrshSection",
    "DiskSection",
    "FillsSection",
    "LimitsSection",
    "LogSection",
    "MemorySection",
    "OriginSection",
    "PolicyRule",
    "RespSection",
    "S3Section",
    "Section",
    "ServerSection",
    "ToolDoorSection",
    "WriteBackSection",
    "is_private",
    "takes_text",
]

_MIB = 2**20
_GIB = 2**30
#: S3's bounds for one part of an upload.
_PART_MIN_BYTES = 5 * _MIB
_PART_MAX_BYTES = 5 * _GIB
#: One piece of an object on its way through a fill (origins/base.py); a smaller budget could not hold any.
_FILL_MIN_BYTES = _MIB
#: Metadata travels in the head of a message, 64 KiB at most, together with the key and the lengths of its texts.
_METADATA_MAX_BYTES = 32 * 1024


class ServerSection(Section):
    """The native socket. Defaults of ``socket`` depend on the user, see ``defaults``."""

    socket: AbsolutePath
    mode: Mode = 0o660
    group: str = ""
    allow_uids: Ids = ()
    allow_gids: Ids = ()
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 1024
    max_in_flight: Annotated[int, Field(ge=1, le=65_536)] = 1024
    write_buffer_bytes: Annotated[ByteSize, Field(ge=64 * 1024, le=_GIB)] = _MIB
    hello_timeout_s: Annotated[Seconds, Field(gt=0)] = 10.0
    stall_timeout_s: Annotated[Seconds, Field(gt=0)] = 30.0
    drain_timeout_s: Seconds = 10.0


class MemorySection(Section):
    """The memory tier."""

    max_bytes: Annotated[ByteSize, Field(ge=_MIB)] = 64_000_000
    max_object_share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.125


class DiskSection(Section):
    """The disk tier."""

    enabled: bool = True
    path: AbsolutePath
    max_bytes: Annotated[ByteSize, Field(ge=16 * _MIB)] = 10 * _GIB
    min_free_bytes: ByteSize = 512 * _MIB
    min_free_inodes: Annotated[int, Field(ge=0)] = 1000


class OriginSection(Section):
    """The place that must not forget."""

    backend: Literal["local", "s3", "memory"] = "local"
    path: AbsolutePath
    quota_bytes: ByteSize = 0
    retry_for_s: Seconds = 30.0
    hedged_reads: bool = False


class S3Section(Section):
    """The bucket of an S3 origin; empty texts are not said, see ``providers`` for what follows then."""

    bucket: Bucket = ""
    prefix: S3Prefix = ""
    provider: Literal["", "aws", "cloudflare", "digitalocean", "tigris", "backblaze", "wasabi", "minio"] = ""
    account: HostLabel = ""
    endpoint_url: EndpointUrl = ""
    region: HostLabel = ""
    path_style: OptionalBool = None
    access_key_id: Credential = SecretStr("")
    secret_access_key: Credential = SecretStr("")
    session_token: Credential = SecretStr("")
    sse: Literal["", "AES256", "aws:kms"] = ""
    sse_kms_key_id: Word = ""
    storage_classes: StorageClasses = Field(default_factory=lambda: MappingProxyType({}))
    max_connections: Annotated[int, Field(ge=4, le=10_000)] = 64
    connect_timeout_s: Annotated[Seconds, Field(gt=0)] = 5.0
    read_timeout_s: Annotated[Seconds, Field(gt=0)] = 20.0
    part_bytes: Annotated[ByteSize, Field(ge=_PART_MIN_BYTES, le=_PART_MAX_BYTES)] = 8 * _MIB
    parts_at_once: Annotated[int, Field(ge=1, le=1000)] = 8
    exists_ttl_s: Seconds = 60.0


class CdnSection(Section):
    """A CDN before the origin's objects; none where ``base_url`` is empty."""

    base_url: CdnUrl = ""
    timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 2000
    headers: Headers = Field(default_factory=lambda: MappingProxyType({}))
    max_connections: Annotated[int, Field(ge=2, le=10_000)] = 64
    part_bytes: Annotated[ByteSize, Field(ge=_MIB, le=_GIB)] = 8 * _MIB
    parts_at_once: Annotated[int, Field(ge=1, le=1000)] = 8
    purge: Literal["", "http"] = ""
    purge_url: CdnUrl = ""


class FillsSection(Section):
    """Objects on their way: from the cdn or the origin into the tiers, and from a client to the origin."""

    buffer_bytes: Annotated[ByteSize, Field(ge=_FILL_MIN_BYTES)] = 64 * _MIB
    spool_memory_bytes: Annotated[ByteSize, Field(ge=_FILL_MIN_BYTES)] = 256 * _MIB
    upload_buffer_bytes: ByteSize = 64 * _MIB
    max_uploads: Annotated[int, Field(ge=1, le=65_536)] = 512


class WriteBackSection(Section):
    """The journal of puts that are acknowledged before the origin has them; used where a policy asks for it."""

    path: AbsolutePath
    max_bytes: Annotated[ByteSize, Field(ge=_MIB)] = _GIB
    max_entries: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    uploads_at_once: Annotated[int, Field(ge=1, le=1000)] = 8


class BuildSection(Section):
    """The build cache, which build tools reach by the dialects they speak."""

    enabled: bool = True
    read_timeout_s: Annotated[Seconds, Field(gt=0)] = 8.0
    write_timeout_s: Annotated[Seconds, Field(gt=0)] = 60.0
    max_entry_bytes: ByteSize = 2 * _GIB
    write_back: bool = True
    instances: InstanceRules = ()


class ToolDoorSection(Section):
    """What the sockets have in common that build tools connect to; no socket where ``socket`` is not said."""

    socket: OptionalPath = None
    mode: Mode = 0o600
    group: str = ""
    instance: Instance = "default"
    read_only: bool = False
    max_connections: Annotated[int, Field(ge=1, le=10_000)] = 256
    idle_timeout_s: Annotated[Seconds, Field(gt=0)] = 3600.0


class RespSection(ToolDoorSection):
    """The socket that speaks Redis' protocol."""


class CrshSection(ToolDoorSection):
    """The socket that speaks with ccache 4.13 and later."""

    allow_stop: bool = False


class LimitsSection(Section):
    """What one request may bring."""

    max_object_bytes: ByteSize = 16 * _GIB
    max_metadata_bytes: Annotated[ByteSize, Field(ge=256, le=_METADATA_MAX_BYTES)] = 16 * 1024


class PolicyRule(Section):
    """How long answers for keys under one prefix may be given without asking the origin."""

    prefix: str
    immutable: bool = False
    ttl_s: Seconds = 60.0
    stale_while_revalidate_s: Seconds = 0.0
    stale_if_error_s: Seconds = 86_400.0
    negative_ttl_s: Seconds = 2.0
    cdn: OptionalBool = None
    write_back: bool = False


class LogSection(Section):
    """What is written to standard error, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json"] = "auto"
    slow_request_s: Seconds = 1.0


class Config(Section):
    """All settings of a daemon."""

    server: ServerSection
    http: HttpSection
    memory: MemorySection
    disk: DiskSection
    origin: OriginSection
    s3: S3Section
    cdn: CdnSection
    fills: FillsSection
    write_back: WriteBackSection
    build: BuildSection
    resp: RespSection
    crsh: CrshSection
    limits: LimitsSection
    policies: tuple[PolicyRule, ...]
    access: AccessSection
    log: LogSection


#: The tables by name; ``policies`` is an array of tables and handled apart.
SECTIONS: dict[str, type[Section]] = {
    "server": ServerSection,
    "http": HttpSection,
    "memory": MemorySection,
    "disk": DiskSection,
    "origin": OriginSection,
    "s3": S3Section,
    "cdn": CdnSection,
    "fills": FillsSection,
    "write_back": WriteBackSection,
    "build": BuildSection,
    "resp": RespSection,
    "crsh": CrshSection,
    "limits": LimitsSection,
    "access": AccessSection,
    "log": LogSection,
}


def takes_text(section: type[Section], name: str) -> bool:
    """Whether a setting's values are texts as they stand (paths, names, modes), not numbers, booleans or lists."""
    field = section.model_fields.get(name)
    if field is None:
        return True
    annotation: Any = field.annotation
    return (
        annotation in {str, Path, Path | None, SecretStr}
        or getattr(annotation, "__origin__", None) is Literal
        or name == "mode"
    )


def is_private(section: type[Section], name: str) -> bool:
    """Whether a setting's value may be, or hold, a secret: no message repeats it."""
    field = section.model_fields.get(name)
    return field is not None and (
        field.annotation is SecretStr or name in {"endpoint_url", "base_url", "purge_url", "headers"}
    )
