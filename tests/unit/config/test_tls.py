from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.support.tls import Certificates, certificates_in
from tiered_store.config.tls import TlsFault, is_readable_by_all, server_context


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    return certificates_in(tmp_path / "tls")


def fault_of(certificate: Path, key: Path) -> TlsFault:
    with pytest.raises(TlsFault) as caught:
        server_context(certificate, key)
    return caught.value


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> str | None:
    """Let both ends speak in memory; the version that they agree on."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
    ]
    for _ in range(10):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0].version()


def test_connections_are_secured_with_the_certificate(files: Certificates) -> None:
    client = ssl.create_default_context(cafile=str(files.authority))
    assert handshake(server_context(files.certificate, files.key), client) == "TLSv1.3"


def test_a_key_may_be_in_the_certificates_file(files: Certificates) -> None:
    files.certificate.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    client = ssl.create_default_context(cafile=str(files.authority))
    assert handshake(server_context(files.certificate, files.certificate), client) == "TLSv1.3"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_are_refused(files: Certificates) -> None:
    context = server_context(files.certificate, files.key)
    client = ssl.create_default_context(cafile=str(files.authority))
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(context, client) == "TLSv1.2"
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        handshake(context, client)


def test_files_that_cannot_be_read(files: Certificates, tmp_path: Path) -> None:
    missing = tmp_path / "none.pem"
    found = fault_of(missing, files.key)
    assert found.message == f"{missing} cannot be read: No such file or directory; check the path and its permissions"
    assert not found.is_key
    assert fault_of(files.certificate, missing).is_key
    assert fault_of(tmp_path, files.key).message == f"{tmp_path} is not a regular file"
    os.mkfifo(tmp_path / "pipe")
    assert fault_of(files.certificate, tmp_path / "pipe").message.endswith("is not a regular file")


def test_files_that_are_something_else(files: Certificates, tmp_path: Path) -> None:
    assert "holds no certificate" in fault_of(files.key, files.key).message
    found = fault_of(files.certificate, files.authority)
    assert "holds no private key" in found.message
    assert found.is_key


def test_a_key_that_belongs_to_another_certificate(files: Certificates, tmp_path: Path) -> None:
    other = certificates_in(tmp_path / "other")
    found = fault_of(files.certificate, other.key)
    assert found.message.startswith(f"{other.key} is not the key of {files.certificate}")
    assert found.is_key


def test_a_key_with_a_password_asks_nobody(files: Certificates) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"word")
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption_algorithm=secret)
    )
    found = fault_of(files.certificate, files.key)
    assert "is encrypted" in found.message
    assert found.is_key


def test_damaged_files(files: Certificates) -> None:
    text = files.certificate.read_text().splitlines()
    files.certificate.write_text("\n".join([text[0], "AAAA" + text[1][4:], *text[2:]]))
    assert "cannot be used" in fault_of(files.certificate, files.key).message


def test_who_can_read_the_key(files: Certificates, tmp_path: Path) -> None:
    assert not is_readable_by_all(files.key)
    files.key.chmod(0o644)
    assert is_readable_by_all(files.key)
    assert not is_readable_by_all(tmp_path / "none")
