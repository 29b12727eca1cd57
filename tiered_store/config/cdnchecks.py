"""Faults and notices of a cdn that one value cannot show. Nobody is asked; as in ``checks``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tiered_store.config.checks import Finding, installed_bytes
from tiered_store.config.model import Config
from tiered_store.config.s3values import is_loopback
from tiered_store.config.sizes import format_size
from tiered_store.config.sources import DEFAULT

__all__ = ["cdn_notices", "check_cdn"]


def check_cdn(config: Config) -> Iterator[Finding]:
    """Every fault of a cdn's settings together."""
    section = config.cdn
    if not section.base_url:
        return
    if section.parts_at_once >= section.max_connections:
        message = f"must be less than cdn.max_connections ({section.max_connections}): one is left for what is read now"
        yield "cdn.parts_at_once", message
    need, installed = section.part_bytes * section.parts_at_once, installed_bytes()
    if need > installed:
        parts = f"{section.parts_at_once} parts of {format_size(section.part_bytes)} each"
        message = f"{parts} are more memory than this machine has ({format_size(installed)}); choose fewer, or smaller"
        yield "cdn.parts_at_once", f"{message} ones (cdn.part_bytes)"


def cdn_notices(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    """What an operator should know: settings without effect, and a way on which objects can be changed."""
    section = config.cdn
    if not section.base_url:
        for setting, source in sources.items():
            if setting.startswith("cdn.") and source != DEFAULT:
                yield f"{setting} from {source} has no effect: there is no cdn.base_url"
        for number, rule in enumerate(config.policies, 1):
            if rule.cdn:
                yield f"policies[{number}].cdn has no effect: there is no cdn.base_url"
        return
    if section.purge_url and not section.purge:
        yield f"cdn.purge_url from {sources['cdn.purge_url']} has no effect: cdn.purge is empty"
    for setting, url in (("cdn.base_url", section.base_url), ("cdn.purge_url", section.purge_url)):
        if url.startswith("http://") and not is_loopback(url):
            yield (
                f"{setting} {url} is plain http to another machine: whoever is between can change what has no digest, "
                "and read cdn.headers; use https"
            )
