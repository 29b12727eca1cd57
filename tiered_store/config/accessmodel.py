"""Who may do what: the settings of tokens, of a unix socket's peers, and of build caches' instances.

As in ``model``: types, defaults, and bounds that a value keeps by itself; ``accesschecks`` sees them together. The
invariant is that no sentence repeats what was given as a token's hash: by mistake that may be the token.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator

from tiered_store.config.section import Section

__all__ = ["ARRAYS", "AccessSection", "InstanceRule", "InstanceRules", "KnownRule", "PeerRule", "TokenRule"]

#: The names of build caches' instances and writers, as ``build/entry.py`` has them: segments of keys.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}\Z")
_HASH = re.compile(r"sha256:[0-9a-f]{64}\Z")
_ID_MAX = 2**32 - 1


def parse_name(value: object) -> object:
    """A name that can be a segment of a key."""
    if isinstance(value, str) and not _NAME.match(value):
        raise ValueError(f"must be 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first, not {value[:80]!r}")
    return value


def parse_instance(value: object) -> object:
    """The name of an instance, or ``*`` for all."""
    return value if value == "*" else parse_name(value)


def parse_hash(value: object) -> object:
    """``sha256:`` and 64 hex digits."""
    if not isinstance(value, str) or not _HASH.match(value):
        raise ValueError(
            "must be 'sha256:' and 64 lowercase hex digits, the hash of a token and not the token itself; "
            "make both with: tiered-store token new NAME"
        )
    return value


def parse_texts(value: object) -> tuple[str, ...]:
    """A list of texts."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError('must be a list of texts such as ["ci/", "sha256:"]')
    return tuple(value)


def parse_instances(value: object) -> tuple[str, ...]:
    """A list of names of instances, ``*`` among them for all."""
    names = parse_texts(value)
    for name in names:
        parse_instance(name)
    return names


def parse_id(value: object) -> object:
    """The number of a user or group; an empty text is any."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _ID_MAX:
        raise ValueError(f'must be a number such as 1000, or "" for any, not {value!r}')
    return value


def parse_tables(value: object) -> object:
    """An array of tables."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, dict | Section) for item in value):
        raise ValueError("is an array of tables; write each one below a line with its name in [[ ]]")
    return tuple(value)


Name = Annotated[str, BeforeValidator(parse_name)]
Instance = Annotated[str, BeforeValidator(parse_instance)]
OptionalId = Annotated[int | None, BeforeValidator(parse_id)]


class KnownRule(Section):
    """What somebody who is known may do."""

    name: Name
    role: Literal["read", "write", "admin"] = "read"
    prefixes: Annotated[tuple[str, ...], BeforeValidator(parse_texts)] = ("",)
    can_list: bool = False
    instances: Annotated[tuple[str, ...], BeforeValidator(parse_instances)] = ("*",)
    quarantine: bool = False


class TokenRule(KnownRule):
    """What whoever presents a token may do."""

    hash: Annotated[str, BeforeValidator(parse_hash)]


class PeerRule(KnownRule):
    """What a process that connects to a unix socket may do."""

    uid: OptionalId = None
    gid: OptionalId = None


class InstanceRule(Section):
    """What somebody without credentials may do with an instance of the build caches."""

    name: Instance
    anonymous: Literal["none", "read", "write"] = "read"


class AccessSection(Section):
    """Who may do what, over HTTP and on the build caches' sockets."""

    tokens: Annotated[tuple[TokenRule, ...], BeforeValidator(parse_tables)] = ()
    peers: Annotated[tuple[PeerRule, ...], BeforeValidator(parse_tables)] = ()


#: Rules by instance, for the section of the build caches.
InstanceRules = Annotated[tuple[InstanceRule, ...], BeforeValidator(parse_tables)]

#: Settings that are arrays of tables, with what each table is.
ARRAYS: dict[str, type[Section]] = {
    "access.tokens": TokenRule,
    "access.peers": PeerRule,
    "build.instances": InstanceRule,
}
