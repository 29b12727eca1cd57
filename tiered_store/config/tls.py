"""The certificate of a door: read, judged, and made into what connections are secured with.

Where the files are judged is where they are used, so that ``check-config`` says what a start would.
"""

from __future__ import annotations

import ssl
import stat
from pathlib import Path
from typing import Final, NoReturn

__all__ = ["TlsFault", "is_readable_by_all", "server_context"]

_CERTIFICATE_MARK: Final = b"-----BEGIN CERTIFICATE-----"
_KEY_MARK: Final = b"PRIVATE KEY-----"
_FILE_MAX_BYTES: Final = 2**20


class TlsFault(Exception):
    """A file that cannot be used.

    Attributes:
        is_key: whether it is the key's.
        message: what is wrong and what to do.
    """

    def __init__(self, message: str, *, is_key: bool) -> None:
        super().__init__(message)
        self.message = message
        self.is_key = is_key


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What secures connections: TLS 1.2 at least, with the interpreter's own choice of ciphers.

    Args:
        certificate: in PEM, the server's own first, then those of the authorities between.
        key: of the certificate, in PEM and without a password; may be the same file.

    Raises:
        TlsFault: one of the files cannot be used, or they do not belong together.
    """
    _check_file(certificate, _CERTIFICATE_MARK, "certificate in PEM ('-----BEGIN CERTIFICATE-----')", is_key=False)
    _check_file(key, _KEY_MARK, "private key in PEM ('-----BEGIN PRIVATE KEY-----')", is_key=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A peer that has this redone again and again costs much and pays little (CVE-2011-1473).
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])

    def ask() -> NoReturn:  # else OpenSSL asks whoever sits at the terminal
        raise TlsFault(f"{key} is encrypted; give a key without a password, readable by the daemon alone", is_key=True)

    try:
        context.load_cert_chain(certificate, key, password=ask)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsFault(
                f"{key} is not the key of {certificate}; name the two that were made together", is_key=True
            ) from None
        said = (error.reason or "it cannot be read").replace("_", " ").lower()
        message = f"{certificate} and {key} cannot be used: {said}; look at them with openssl x509 and openssl pkey"
        raise TlsFault(message, is_key=False) from None
    except OSError as error:  # they have changed since
        raise TlsFault(f"cannot be read: {error.strerror}", is_key=False) from None
    return context


def is_readable_by_all(key: Path) -> bool:
    """Whether every user of this machine can read the key."""
    try:
        return bool(stat.S_IMODE(key.stat().st_mode) & stat.S_IROTH)
    except OSError:
        return False


def _check_file(path: Path, mark: bytes, what: str, *, is_key: bool) -> None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for somebody to write into it
            raise TlsFault(f"{path} is not a regular file", is_key=is_key)
        with path.open("rb") as file:
            text = file.read(_FILE_MAX_BYTES)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}; check the path and its permissions"
        raise TlsFault(message, is_key=is_key) from None
    if mark not in text:
        raise TlsFault(f"{path} holds no {what}", is_key=is_key)
