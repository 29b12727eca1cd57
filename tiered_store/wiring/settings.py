"""What each part is told: sections of the configuration as the part's own values.

Opens nothing, and imports what an S3 origin or a cdn needs only for a configuration that has one: it takes long, and
most daemons have neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiered_store.build.cache import BuildLimits
from tiered_store.build.entry import ENTRY_PREFIX, QUARANTINE_PREFIX
from tiered_store.config.accessmodel import KnownRule
from tiered_store.config.model import CdnSection, Config, S3Section
from tiered_store.config.providers import place_of
from tiered_store.servers.access import AccessSettings, PeerRule, Rule, TokenRule
from tiered_store.servers.limits import NativeLimits
from tiered_store.store.limits import StoreLimits
from tiered_store.store.policy import Policies, Policy
from tiered_store.wiring.descriptors import DescriptorPlan

if TYPE_CHECKING:
    from tiered_store.origins.s3settings import S3Settings
    from tiered_store.tiers.cdnsettings import CdnSettings

__all__ = [
    "access_settings",
    "build_limits",
    "cdn_settings",
    "native_limits",
    "s3_settings",
    "store_limits",
    "store_policies",
]

#: Where tools' keys are, and what holds for them where no policy says otherwise. Whatever is behind one was right when
#: it was written, so that no reader need wait to learn whether another machine has written it anew.
_ENTRIES = (ENTRY_PREFIX, QUARANTINE_PREFIX)
_ENTRIES_TTL_S = 600.0
_ENTRIES_STALE_S = 86_400.0


def native_limits(config: Config, plan: DescriptorPlan) -> NativeLimits:
    """What one peer of the native socket may use."""
    return NativeLimits(
        max_connections=plan.connections,
        max_in_flight=config.server.max_in_flight,
        max_metadata_bytes=config.limits.max_metadata_bytes,
        write_buffer_bytes=config.server.write_buffer_bytes,
        hello_timeout_s=config.server.hello_timeout_s,
        stall_timeout_s=config.server.stall_timeout_s,
        slow_request_s=config.log.slow_request_s,
    )


def access_settings(config: Config) -> AccessSettings:
    """Who may do what."""
    access = config.access
    return AccessSettings(
        tokens=[TokenRule(_rule(token), token.hash.removeprefix("sha256:")) for token in access.tokens],
        peers=[PeerRule(_rule(peer), peer.uid, peer.gid) for peer in access.peers],
        is_open=config.http.open,
        anonymous={instance.name: instance.anonymous for instance in config.build.instances},
        anonymous_objects=config.http.anonymous,
    )


def _rule(rule: KnownRule) -> Rule:
    return Rule(
        rule.name,
        rule.role,
        prefixes=rule.prefixes,
        can_list=rule.can_list,
        instances=frozenset(rule.instances),
        quarantine=rule.quarantine,
    )


def store_limits(config: Config) -> StoreLimits:
    """What the store refuses, and what it may hold at once.

    Of the connections to a bucket a sixteenth is for readers that hold one as long as they like, an eighth, at least,
    for requests that hold one shortly (parts, questions, listings), and fills get the rest.
    """
    bounds = {}
    if config.origin.backend == "s3":
        through = max(1, config.s3.max_connections // 16)
        short = max(2, config.s3.max_connections // 8)
        bounds = {"max_through_reads": through, "max_fills": config.s3.max_connections - through - short}
    if config.cdn.base_url:
        reads = config.cdn.max_connections - config.cdn.parts_at_once
        bounds["max_fills"] = min(reads, bounds.get("max_fills", reads))
    return StoreLimits(
        max_object_bytes=config.limits.max_object_bytes,
        max_metadata_bytes=config.limits.max_metadata_bytes,
        fill_buffer_bytes=config.fills.buffer_bytes,
        spool_memory_bytes=config.fills.spool_memory_bytes,
        upload_buffer_bytes=config.fills.upload_buffer_bytes,
        max_uploads=config.fills.max_uploads,
        # Asking a directory costs less than remembering it is worth.
        exists_ttl_s=config.s3.exists_ttl_s if config.origin.backend == "s3" else 0.0,
        uploads_at_once=config.write_back.uploads_at_once,
        drain_s=config.server.drain_timeout_s,
        **bounds,
    )


def store_policies(config: Config) -> Policies:
    """What the store keeps for how long, by key prefix."""
    rules = [
        Policy(
            rule.prefix,
            immutable=rule.immutable,
            ttl_s=rule.ttl_s,
            stale_while_revalidate_s=rule.stale_while_revalidate_s,
            stale_if_error_s=rule.stale_if_error_s,
            negative_ttl_s=rule.negative_ttl_s,
            cdn=rule.cdn,
            write_back=rule.write_back,
        )
        for rule in config.policies
    ]
    named = {rule.prefix for rule in rules}
    entries = [
        Policy(prefix, ttl_s=_ENTRIES_TTL_S, stale_while_revalidate_s=_ENTRIES_STALE_S)
        for prefix in _ENTRIES
        if prefix not in named
    ]
    return Policies([*rules, *entries])


def build_limits(config: Config) -> BuildLimits:
    """What the build cache allows."""
    section = config.build
    return BuildLimits(section.read_timeout_s, section.max_entry_bytes, section.write_timeout_s, section.write_back)


def s3_settings(section: S3Section) -> S3Settings:
    """What an S3 origin is told: the section, with what follows from the provider; an empty text is not said."""
    from tiered_store.origins.s3settings import S3Settings

    place = place_of(section)
    return S3Settings(
        bucket=section.bucket,
        prefix=section.prefix,
        endpoint_url=place.endpoint_url,
        region=place.region,
        path_style=place.path_style,
        access_key_id=section.access_key_id.get_secret_value() or None,
        secret_access_key=section.secret_access_key.get_secret_value() or None,
        session_token=section.session_token.get_secret_value() or None,
        sse=section.sse,
        sse_kms_key_id=section.sse_kms_key_id,
        storage_classes=section.storage_classes,
        max_connections=section.max_connections,
        connect_timeout_s=section.connect_timeout_s,
        read_timeout_s=section.read_timeout_s,
        part_bytes=section.part_bytes,
        parts_at_once=section.parts_at_once,
    )


def cdn_settings(section: CdnSection) -> CdnSettings:
    """What a cdn tier is told."""
    from tiered_store.tiers.cdnsettings import CdnSettings

    return CdnSettings(
        base_url=section.base_url,
        purge_url=section.purge_url,
        timeout_s=section.timeout_ms / 1000,
        headers={name: value.get_secret_value() for name, value in section.headers.items()},
        max_connections=section.max_connections,
        part_bytes=section.part_bytes,
        parts_at_once=section.parts_at_once,
    )
