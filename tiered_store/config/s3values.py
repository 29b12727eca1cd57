"""How the values of an S3 origin are written: buckets, prefixes, endpoints, regions, credentials, storage classes.

As in ``values``: each parser raises ``ValueError`` with a sentence that says what would be accepted. The invariant is
that no sentence repeats what may hold a secret: a credential, or an endpoint, in which people write credentials.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from types import MappingProxyType
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import BeforeValidator, PlainSerializer, PlainValidator, SecretStr

from tiered_store.errors import InvalidKey
from tiered_store.key import ARTIFACT_DIRECTORY, ARTIFACT_PREFIX, MAX_KEY_BYTES, parse_prefix

__all__ = [
    "Bucket",
    "Credential",
    "EndpointUrl",
    "HostLabel",
    "OptionalBool",
    "S3Prefix",
    "StorageClasses",
    "Word",
    "is_loopback",
]

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
#: What may stand in the name of a host between two dots, which is where providers put accounts and regions.
_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", re.ASCII)
_CLASS = re.compile(r"[A-Z][A-Z0-9_]*", re.ASCII)
#: Classes from which nothing can be read before somebody has restored it, which takes minutes to days.
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
#: S3 names have as many bytes as keys, and behind the prefix there must be room for an artifact's name at least.
_PREFIX_MAX_BYTES = MAX_KEY_BYTES - len(f"{ARTIFACT_DIRECTORY}00/") - 64


def parse_bucket(value: object) -> object:
    """A bucket's name by the rules of S3; empty for none."""
    if not isinstance(value, str) or not value:
        return value
    rule = None
    if not _BUCKET.fullmatch(value):
        rule = "a bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens, a letter or digit at its ends"
    elif ".." in value:
        rule = "a bucket's name has no two dots in a row"
    elif re.fullmatch(r"[0-9.]+", value) and value.count(".") == 3:  # also 999.1.1.1, which S3 takes for an address too
        rule = "a bucket's name is no IP address"
    if rule is not None:
        raise ValueError(f"no bucket can be called {value!r}: {rule}; name the bucket alone, without host or path")
    return value


def parse_s3_prefix(value: object) -> object:
    """What stands before all names in a bucket: made to end in one ``/`` and to begin with none.

    Raises:
        ValueError: if names behind it would not be what a key may be, or it leaves no room for them.
    """
    if not isinstance(value, str) or not value:
        return value
    prefix = value.removeprefix("/")
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    try:
        parse_prefix(prefix)
    except InvalidKey as error:
        raise ValueError(f"cannot be {value!r}: {error.message}; write it as 'team/cache/'") from None
    if len(prefix.encode()) > _PREFIX_MAX_BYTES:
        raise ValueError(f"must have at most {_PREFIX_MAX_BYTES} bytes, S3's names have {MAX_KEY_BYTES}; shorten it")
    return prefix


def parse_endpoint(value: object) -> object:
    """``http://host[:port]`` or ``https://``; empty for none. Nothing may stand behind the port but one ``/``."""
    if not isinstance(value, str) or not value:
        return value
    try:
        parts = urlsplit(value)
        port = parts.port  # a property that judges it
        if port == 0:
            raise ValueError
    except ValueError:
        raise ValueError("is no URL that can be reached; write it as 'https://host' or 'https://host:port'") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must begin with 'https://' (or 'http://') and a host; write it as 'https://host:port'")
    if "@" in parts.netloc:
        raise ValueError("must not hold credentials; remove them here, set s3.access_key_id and s3.secret_access_key")
    if _has_more(value, parts):
        raise ValueError("must end after host and port; set s3.bucket and s3.prefix, and remove path and query here")
    if not re.fullmatch(r"[A-Za-z0-9._:-]+", parts.hostname):
        raise ValueError("must name a host in ASCII letters, digits, dots and hyphens; write it as 'https://host:port'")
    return f"{parts.scheme}://{parts.netloc.removesuffix(':')}"


def _has_more(value: str, parts: SplitResult) -> bool:
    """An empty query or fragment counts: the SDK would put the bucket behind its mark."""
    return parts.path not in {"", "/"} or "?" in value or "#" in value


def parse_label(value: object) -> object:
    """An account or a region: part of the name of a host; empty for none."""
    if isinstance(value, str) and value and not _LABEL.fullmatch(value):
        raise ValueError(f"must be letters, digits and hyphens such as 'eu-central-1', not {value!r}")
    return value


def parse_word(value: object) -> object:
    """A text that goes into a header: printable ASCII without white space; empty for none."""
    if isinstance(value, str) and not _is_one_word(value):
        raise ValueError(f"must be printable ASCII without white space, not {value!r}; copy it anew")
    return value


def parse_credential(value: object) -> object:
    """A key or token. What goes wrong in copying them is white space, mostly the end of a line."""
    if isinstance(value, str) and not _is_one_word(value):
        raise ValueError("has white space or a character that no credential has, such as a line's end; copy it anew")
    return value


def _is_one_word(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def parse_optional(value: object) -> object:
    """Yes, no, or an empty text: not said."""
    return None if value == "" else value


def parse_storage_classes(value: object) -> Mapping[str, str]:
    """Storage classes by the beginning of the name.

    Raises:
        ValueError: for what is no table of texts, no beginning of a name, no class, or a class that cannot be read.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a table such as {{ 'builds/' = 'STANDARD_IA' }}, not {value!r}")  # noqa: TRY004 - pydantic makes faults of ValueErrors only
    for prefix, storage_class in value.items():
        try:
            parse_prefix(prefix)
        except InvalidKey as error:
            raise ValueError(f"no name can start with {prefix!r}: {error.message}") from None
        if prefix.startswith(ARTIFACT_PREFIX):
            raise ValueError(f"names the place of artifacts by their key; write '{ARTIFACT_DIRECTORY}'")
        if not isinstance(storage_class, str) or not _CLASS.fullmatch(storage_class):
            raise ValueError(
                f"of {prefix!r} must be S3's name of a class, such as 'STANDARD_IA', not {storage_class!r}"
            )
        if storage_class in _ARCHIVES:
            raise ValueError(
                f"of {prefix!r} cannot be {storage_class!r}: nothing in it can be read before it is restored; "
                "choose another, such as 'GLACIER_IR'"
            )
    return MappingProxyType(dict(value))


def is_loopback(endpoint_url: str) -> bool:
    """Whether an endpoint is on this machine, as far as its name says."""
    host = urlsplit(endpoint_url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


Bucket = Annotated[str, BeforeValidator(parse_bucket)]
S3Prefix = Annotated[str, BeforeValidator(parse_s3_prefix)]
EndpointUrl = Annotated[str, BeforeValidator(parse_endpoint)]
HostLabel = Annotated[str, BeforeValidator(parse_label)]
Word = Annotated[str, BeforeValidator(parse_word)]
Credential = Annotated[SecretStr, BeforeValidator(parse_credential)]
OptionalBool = Annotated[bool | None, BeforeValidator(parse_optional)]
StorageClasses = Annotated[Mapping[str, str], PlainValidator(parse_storage_classes), PlainSerializer(dict)]
