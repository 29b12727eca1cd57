"""Faults and notices of rights that one value cannot show; as in ``checks``.

A rule that can be understood in two ways is a fault: whoever writes it should see which one is meant.
"""

from __future__ import annotations

from collections.abc import Iterator

from tiered_store.config.accessmodel import KnownRule
from tiered_store.config.checks import Finding
from tiered_store.config.model import Config
from tiered_store.errors import InvalidKey
from tiered_store.key import ARTIFACT_DIRECTORY, ARTIFACT_PREFIX, parse_prefix

__all__ = ["access_notices", "check_access"]

#: Where entries of build caches are (``build/entry.py``).
_RESERVED = ("build/", "quarantine/")
_BOUNDS = ("prefixes", "instances", "can_list", "quarantine")


def check_access(config: Config) -> Iterator[Finding]:
    """Every fault of the rules together."""
    names: dict[str, str] = {}
    hashes: dict[str, str] = {}
    for setting, rule in _rules(config):
        if rule.name in names:
            message = (
                f"{names[rule.name]} is called {rule.name!r}, too; give each a name of its own, it is a quarantine's"
            )
            yield f"{setting}.name", message
        names.setdefault(rule.name, setting)
        yield from _check_rule(setting, rule)
    for number, token in enumerate(config.access.tokens, 1):
        setting = f"access.tokens[{number}]"
        if token.hash in hashes:
            yield f"{setting}.hash", f"is that of {hashes[token.hash]}, too; make a token for each"
        hashes.setdefault(token.hash, setting)
    seen: dict[str, int] = {}
    for number, instance in enumerate(config.build.instances, 1):
        if instance.name in seen:
            message = f"{instance.name!r} has a rule already, number {seen[instance.name]}; remove one of the two"
            yield f"build.instances[{number}].name", message
        seen.setdefault(instance.name, number)


def _rules(config: Config) -> Iterator[tuple[str, KnownRule]]:
    for number, token in enumerate(config.access.tokens, 1):
        yield f"access.tokens[{number}]", token
    for number, peer in enumerate(config.access.peers, 1):
        yield f"access.peers[{number}]", peer


def _check_rule(setting: str, rule: KnownRule) -> Iterator[Finding]:
    said = rule.model_fields_set
    if rule.role == "admin":
        for name in _BOUNDS:
            if name in said:
                yield (
                    f"{setting}.{name}",
                    "means nothing for role = 'admin', which may do everything; remove one of the two",
                )
        return
    for one, other in (("prefixes", "instances"), ("instances", "prefixes")):
        if one in said and other not in said:
            what = "build caches (their instances)" if other == "instances" else "other objects (by prefix)"
            yield f"{setting}.{other}", f"is missing: where {one} are said, say which {what} are allowed; [] is none"
    if rule.quarantine and rule.role != "write":
        yield (
            f"{setting}.quarantine",
            "is about writing, and role = 'read' writes nothing; remove one of the two",
        )
    if rule.quarantine and not {"prefixes", "instances"} & said:
        message = "is for writers nobody trusts: say which objects (by prefix) they may change for all; [] is none"
        yield f"{setting}.prefixes", f"is missing: quarantine {message}"
    for prefix in rule.prefixes:
        yield from _check_prefix(f"{setting}.prefixes", prefix)
    yield from _check_artifacts(setting, rule)


def _check_artifacts(setting: str, rule: KnownRule) -> Iterator[Finding]:
    """Contents of all build caches are artifacts: a rule for some of them must not reach all by the way."""
    is_bounded = "*" not in rule.instances or rule.quarantine
    is_written_out = any(prefix.startswith(ARTIFACT_PREFIX) for prefix in rule.prefixes)
    if not is_bounded or is_written_out or "prefixes" not in rule.model_fields_set:
        return
    for prefix in rule.prefixes:
        if ARTIFACT_PREFIX.startswith(prefix):
            message = "covers artifacts, and those are the contents of all build caches: name other prefixes, or add"
            meant = f"{ARTIFACT_PREFIX!r} if this rule is to have them whatever its instances are"
            yield f"{setting}.prefixes", f"{prefix!r} {message} {meant}"


def _check_prefix(setting: str, prefix: str) -> Iterator[Finding]:
    try:
        parse_prefix(prefix)
    except InvalidKey as error:
        yield setting, f"no key can start with {prefix!r}: {error.message}"
    if prefix.startswith(_RESERVED):
        yield setting, f"only administrators reach {prefix!r} by key; say instances for build caches"
    if prefix.startswith(ARTIFACT_DIRECTORY):
        yield setting, f"artifacts are not reached by their name at the origin; say {ARTIFACT_PREFIX!r}"


def access_notices(config: Config) -> Iterator[str]:
    """What an operator should know: a door beside the one that was closed."""
    server = config.server
    if any(rule.role != "admin" for rule in config.access.peers) and not (server.allow_uids or server.allow_gids):
        yield (
            "access.peers bounds what some users may do, and the native socket lets all do everything whom server.mode "
            "lets in; bound that with server.mode, server.allow_uids or server.allow_gids"
        )
    if config.http.socket is not None and config.access.tokens and not config.access.peers and config.http.mode & 0o006:
        yield (
            f"http.mode {config.http.mode:04o} lets every user of this machine do everything at {config.http.socket} "
            "without a token; say in access.peers what they may do, or close it to others"
        )
