"""What follows from the name of an S3 provider: where it listens, which region signatures name, how buckets are named.

Providers differ in these three things, and a user should not have to know them. What is said explicitly wins over all
of it. From their documentation, November 2026: AWS, Cloudflare R2 (region ``auto``), DigitalOcean Spaces, Tigris,
Backblaze B2, Wasabi, MinIO. The origin itself knows no provider: it is told the place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tiered_store.config.model import Config, S3Section

__all__ = ["PRESETS", "Place", "Preset", "place_of", "preset_of", "said_origin", "said_place"]


@dataclass(frozen=True, slots=True)
class Preset:
    """What follows from a provider's name.

    Attributes:
        endpoint: the endpoint's URL with ``{region}`` and ``{account}`` to be filled in; None for the SDK's own rules
            (AWS), or where every installation has its own (see ``has_endpoint``).
        region: the region where none is given; None where one has to be, or the SDK is asked.
        path_style: whether the bucket is named in the path and not in the host.
        has_endpoint: whether the provider listens somewhere that can be known.
    """

    endpoint: str | None
    region: str | None
    path_style: bool = False
    has_endpoint: bool = True


PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {
        "aws": Preset(None, None),
        "cloudflare": Preset("https://{account}.r2.cloudflarestorage.com", "auto", path_style=True),
        "digitalocean": Preset("https://{region}.digitaloceanspaces.com", None),
        "tigris": Preset("https://t3.storage.dev", "auto"),
        "backblaze": Preset("https://s3.{region}.backblazeb2.com", None),
        "wasabi": Preset("https://s3.{region}.wasabisys.com", None),
        "minio": Preset(None, "us-east-1", path_style=True, has_endpoint=False),
    }
)
#: A server that nobody named: the path is understood by all of them, names of hosts for buckets are not.
_UNNAMED: Final = Preset(None, None, path_style=True, has_endpoint=False)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bucket is, after explicit settings and preset have been put together.

    Attributes:
        endpoint_url: the server's; None for AWS.
        region: what signatures name; None to ask the SDK's configuration.
        path_style: whether the bucket is named in the path.
    """

    endpoint_url: str | None
    region: str | None
    path_style: bool


def preset_of(section: S3Section) -> Preset:
    """The named provider's; AWS's where only a region says where the bucket is."""
    if section.provider:
        return PRESETS[section.provider]
    return PRESETS["aws"] if section.region and not section.endpoint_url else _UNNAMED


def place_of(section: S3Section) -> Place:
    """The place of a section that has no faults."""
    preset = preset_of(section)
    region = section.region or preset.region
    endpoint = section.endpoint_url
    if not endpoint and preset.endpoint is not None:
        endpoint = preset.endpoint.format(region=region, account=section.account)
    path_style = preset.path_style if section.path_style is None else section.path_style
    return Place(endpoint or None, region, path_style)


def said_origin(config: Config) -> str:
    """The origin in words, for the log. Endpoints carry no credentials: the checks see to that."""
    if config.origin.backend == "s3":
        return said_place(config.s3)
    return f"directory {config.origin.path}" if config.origin.backend == "local" else "memory (forgets at the stop)"


def said_place(section: S3Section) -> str:
    """Bucket, endpoint and prefix in words."""
    place = place_of(section)
    where = place.endpoint_url or " ".join(filter(None, ("AWS", place.region)))
    return f"bucket {section.bucket} at {where}" + (f" ({section.prefix})" if section.prefix else "")
