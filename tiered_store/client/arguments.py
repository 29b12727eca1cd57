"""What callers pass: refused at the door where it cannot be meant, and turned into what travels.

The daemon checks the rules of keys. Here is what could not be sent at all, or would break the connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tiered_store.errors import InvalidKey, TooLarge
from tiered_store.key import ARTIFACT_PREFIX, MAX_KEY_BYTES, parse_key
from tiered_store.protocol.batches import encode_keys

__all__ = ["check_waits", "named", "no_key", "raw_key", "raw_keys", "raw_target", "span_of", "unsendable"]

#: Some thirty years: what a kernel's timer surely takes.
_LONGEST_WAIT_S: Final = 1e9
#: No object reaches as far, so that a range behind it is an empty one, however far.
_FARTHEST: Final = 2**63 - 1


def check_waits(timeout_s: object, reconnect_s: object, on_unavailable: object) -> None:
    """Check what a client is made with.

    Raises:
        ValueError, TypeError: it cannot be meant; says what can.
    """
    check_timeout(timeout_s)
    if not isinstance(reconnect_s, int | float):
        raise TypeError(f"reconnect_s must be a number of seconds, not {reconnect_s!r}")
    if not reconnect_s >= 0:  # which nan is not
        raise ValueError(f"reconnect_s must be 0 seconds or more, not {reconnect_s}")
    if on_unavailable not in {"error", "miss"}:
        raise ValueError(f"on_unavailable must be 'error' or 'miss', not {on_unavailable!r}")


def check_timeout(timeout_s: object) -> None:
    """Check how long to wait for an answer. Raises ValueError, TypeError: it cannot be meant."""
    if timeout_s is not None:
        if not isinstance(timeout_s, int | float):
            raise TypeError(f"timeout_s must be a number of seconds or None, not {timeout_s!r}")
        if not 0 < timeout_s <= _LONGEST_WAIT_S:
            raise ValueError(
                f"timeout_s must be above 0 and at most 1e9 seconds, or None for no limit, not {timeout_s}"
            )


def span_of(offset: int, length: int | None) -> tuple[int, int | None]:
    """A range as it can be sent.

    Raises:
        ValueError: offset or length are negative. TypeError: they are no integers.
    """
    if not isinstance(offset, int) or not isinstance(length, int | None):
        raise TypeError(f"offset and length must be integers, not {offset!r} and {length!r}")
    if offset < 0 or (length is not None and length < 0):
        raise ValueError("offset and length must not be negative")
    return min(offset, _FARTHEST), None if length is None else min(length, _FARTHEST)


def no_key(key: object) -> TypeError:
    """What to say of a key that is no text."""
    return TypeError(f"a key must be a str, not {type(key).__name__}")


def named(key: str) -> str:
    """The key of a put, which must not be None: that is how the clients say "by its digest".

    Raises:
        TypeError: it is no text.
    """
    if not isinstance(key, str):
        raise no_key(key)
    return key


def raw_key(key: str) -> bytes:
    """A key as it travels.

    Raises:
        InvalidKey: it is not Unicode, or too long. TypeError: it is no text.
    """
    try:
        raw = key.encode()
    except UnicodeEncodeError:
        raise InvalidKey("a key must be valid UTF-8", key=repr(key)[:80]) from None
    except AttributeError:
        raise no_key(key) from None
    if len(raw) > MAX_KEY_BYTES:
        raise InvalidKey(f"a key must have at most {MAX_KEY_BYTES} bytes, this one has {len(raw)}", key=key[:80])
    return raw


def raw_keys(keys: Sequence[str]) -> bytes:
    """Keys as a batch carries them. Raises as :func:`raw_key`."""
    try:
        return encode_keys([key.encode() for key in keys])
    except (UnicodeEncodeError, AttributeError, TooLarge):
        for key in keys:
            raw_key(key)
        raise


def raw_target(key: str) -> bytes:
    """The key of a put. Raises as :func:`raw_key`."""
    if key == ARTIFACT_PREFIX:
        parse_key(key)  # on the wire it is how no key is said; of a caller it is a bad one
    return raw_key(key)


def unsendable(content_type: object, metadata: Mapping[str, str], error: Exception) -> Exception:
    """Why content type and metadata could not be encoded: a TypeError or ValueError that names the culprit.

    Args:
        content_type: of a put.
        metadata: of a put.
        error: what the codec said; given back where neither is to blame.
    """
    texts = [("the content type", content_type)] if content_type is not None else []
    for name, value in metadata.items():
        texts += [("a name of the metadata", name), (f"the metadata's {name!r}", value)]
    for what, text in texts:
        if not isinstance(text, str):
            return TypeError(f"{what} must be a str, not {text!r}")
        try:
            text.encode()
        except UnicodeEncodeError:
            return ValueError(f"{what} must be valid Unicode, {text!r} is not")
    return error
