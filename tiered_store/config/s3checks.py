"""Faults and notices of an S3 origin that one value cannot show.

Which settings belong together, which follow from the provider, and what is set for an origin that is not used. No
server is asked, and no message repeats a credential. Each check yields ``(setting, message)``, as in ``checks``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from tiered_store.config.checks import Finding, installed_bytes
from tiered_store.config.model import Config, S3Section
from tiered_store.config.providers import preset_of
from tiered_store.config.s3values import is_loopback
from tiered_store.config.sizes import format_size
from tiered_store.config.sources import DEFAULT

__all__ = ["check_s3", "s3_notices", "unused_notices"]


def check_s3(config: Config, sources: Mapping[str, str], faulty: Collection[str]) -> Iterator[Finding]:
    """Every fault of an S3 origin's settings together.

    Args:
        config: all settings.
        sources: by ``section.name``, where the value came from.
        faulty: settings that have a fault already; what would only follow from it is not said.
    """
    if config.origin.backend != "s3":
        yield from _check_meant(config, sources)
        return
    section = config.s3
    if config.origin.quota_bytes:
        yield "origin.quota_bytes", "bounds the memory backend only; remove it, or set a quota at the S3 server"
    if not section.bucket:
        yield "s3.bucket", "is missing; origin.backend is 's3', which needs the bucket's name"
    if "s3.provider" not in faulty:
        yield from _check_place(section, faulty)
    yield from _check_credentials(section)
    if section.sse_kms_key_id and section.sse != "aws:kms":
        yield "s3.sse", f"must be 'aws:kms', not {section.sse!r}, because s3.sse_kms_key_id is set; or remove that"
    yield from _check_parts(section)


def _check_meant(config: Config, sources: Mapping[str, str]) -> Iterator[Finding]:
    """Settings for S3 and no word of a backend: objects would go to a directory, and be missed in the bucket later."""
    given = _given("s3", sources)
    if given and sources["origin.backend"] == DEFAULT:
        backend = config.origin.backend
        yield given[0], f"has no effect, origin.backend is {backend!r} by default; set that to 's3', or remove this"


def _check_place(section: S3Section, faulty: Collection[str]) -> Iterator[Finding]:
    preset, provider = preset_of(section), section.provider
    if section.account and provider != "cloudflare":
        yield "s3.account", "is part of Cloudflare's endpoint only; set s3.provider to 'cloudflare', or remove it"
    if section.endpoint_url or "s3.endpoint_url" in faulty:
        return
    if not preset.has_endpoint:
        if provider:
            yield "s3.endpoint_url", f"is missing; provider {provider!r} needs it, such as 'https://host:9000'"
        elif "s3.region" not in faulty:
            message = "nothing says where the bucket is; set the provider (such as 'aws'), or s3.endpoint_url, or "
            message += "s3.region for AWS"
            yield "s3.provider", message
    endpoint = preset.endpoint or ""
    if "{account}" in endpoint and not section.account:
        yield "s3.account", f"is missing; provider {provider!r} needs the account's id, or set s3.endpoint_url"
    if "{region}" in endpoint and not (section.region or preset.region):
        yield "s3.region", f"is missing; provider {provider!r} has an endpoint for each, or set s3.endpoint_url"


def _check_credentials(section: S3Section) -> Iterator[Finding]:
    """Values that are said as far as that goes: whether they are there."""
    key_id, secret = bool(section.access_key_id.get_secret_value()), bool(section.secret_access_key.get_secret_value())
    if key_id and not secret:
        yield "s3.secret_access_key", "is missing; set it too, or remove s3.access_key_id to use the AWS chain"
    elif secret and not key_id:
        yield "s3.access_key_id", "is missing; set it too, or remove s3.secret_access_key to use the AWS chain"
    elif section.session_token.get_secret_value() and not key_id:
        message = "belongs to a key; set s3.access_key_id and s3.secret_access_key too, or remove it"
        yield "s3.session_token", message


def _check_parts(section: S3Section) -> Iterator[Finding]:
    """Uploads may have so many parts in memory, and so may reads."""
    need, installed = 2 * section.part_bytes * section.parts_at_once, installed_bytes()
    if need > installed:
        parts = f"{section.parts_at_once} parts of {format_size(section.part_bytes)} each for uploads and reads"
        message = f"{parts} are more memory than this machine has ({format_size(installed)}); choose fewer, or smaller"
        yield "s3.parts_at_once", f"{message} ones (s3.part_bytes)"


def unused_notices(config: Config, sources: Mapping[str, str], named: Mapping[str, bool]) -> Iterator[str]:
    """What was set for an origin that is not the one in use."""
    backend = config.origin.backend
    if backend != "local" and named["origin.path"]:
        yield f"origin.path from {sources['origin.path']} has no effect: origin.backend is {backend!r}"
    if backend != "s3":
        for setting in _given("s3", sources):
            yield f"{setting} from {sources[setting]} has no effect: origin.backend is {backend!r}"


def s3_notices(config: Config) -> Iterator[str]:
    """What an operator should know of an S3 origin that can be used."""
    endpoint = config.s3.endpoint_url
    if config.origin.backend == "s3" and endpoint.startswith("http://") and not is_loopback(endpoint):
        yield (
            f"s3.endpoint_url {endpoint} is plain http to another machine: whoever is between can read and change "
            "objects; use https"
        )


def _given(section: str, sources: Mapping[str, str]) -> list[str]:
    """The settings of a section that somebody named."""
    return [setting for setting, source in sources.items() if setting.startswith(f"{section}.") and source != DEFAULT]
