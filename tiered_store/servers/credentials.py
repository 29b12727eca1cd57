"""What somebody presents to be known by: tokens, and where the tools' headers carry them. Pure.

A token has 256 random bits, so its plain sha256 is as good a thing to keep as any slow hash: those make guessing dear
where people choose what is guessed, and nobody guesses 256 bits. It also costs a microsecond for each request and not a
tenth of a second. For the same reason a word that a person chose must never be a token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from typing import Final

__all__ = ["hash_of", "new_token", "token_of"]

#: Says what it is wherever one turns up: in a log, a repository, a scanner for secrets.
_MARK: Final = "tst_"
_TOKEN_BYTES: Final = 32
#: Nobody's token; a header of some kilobytes is not worth a look.
_TOKEN_MAX_CHARACTERS: Final = 1024
_S3_SCHEME: Final = "aws4-hmac-sha256"
_S3_CREDENTIAL: Final = "Credential="


def new_token() -> str:
    """A token that nobody has seen: letters, digits, ``-`` and ``_``, so that it can stand in a URL and in a shell."""
    return _MARK + secrets.token_urlsafe(_TOKEN_BYTES)


def hash_of(token: str) -> str:
    """What the configuration keeps of a token: its sha256, 64 lowercase hex digits."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def token_of(authorization: str) -> str:
    """The token in an ``Authorization`` header, or an empty text. What cannot be understood is no credential.

    ``Bearer TOKEN``; ``Basic`` with the token as the password, or as the user where the password is empty (RFC 7617);
    and Amazon's signature, whose access key is the token. That signature is not checked: it would need the secret in
    plain, and proves no more than the token itself does.
    """
    scheme, _, rest = authorization.strip().partition(" ")
    rest = rest.strip()
    match scheme.lower():
        case "bearer":
            token = rest
        case "basic":
            token = _of_basic(rest)
        case kind if kind == _S3_SCHEME:
            token = _of_signature(rest)
        case _:
            token = ""
    return token if len(token) <= _TOKEN_MAX_CHARACTERS else ""


def _of_basic(encoded: str) -> str:
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeError, ValueError):
        return ""
    return password or user


def _of_signature(fields: str) -> str:
    for field in fields.replace(",", " ").split():
        if field.startswith(_S3_CREDENTIAL):
            return field.removeprefix(_S3_CREDENTIAL).partition("/")[0]
    return ""
