"""Certificates for tests: an authority of their own, and what it vouches for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

__all__ = ["Certificates", "certificates_in"]


@dataclass(frozen=True)
class Certificates:
    """Files in PEM.

    Attributes:
        certificate: for ``localhost`` and ``127.0.0.1``.
        key: of the certificate.
        authority: whom clients have to trust.
    """

    certificate: Path
    key: Path
    authority: Path


def certificates_in(directory: Path) -> Certificates:
    """Make an authority and a certificate."""
    directory.mkdir(parents=True, exist_ok=True)
    files = Certificates(directory / "server.pem", directory / "server.key", directory / "authority.pem")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    files.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    files.key.write_bytes(issued.private_key_pem.bytes())
    files.key.chmod(0o600)
    authority.cert_pem.write_to_path(str(files.authority))
    return files
