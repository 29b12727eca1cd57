"""The settings that keep connections of the HTTP door secret, judged with their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.tls import Certificates, certificates_in
from tiered_store.config.faults import ConfigError
from tiered_store.config.load import Flags, Loaded, load

OPEN = "[http]\nport = 8080\nopen = true\n"


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    return certificates_in(tmp_path / "tls")


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(text: str) -> Loaded:
        path = tmp_path / "c.toml"
        path.write_text(text)
        return load(path, flags=Flags(data_dir=tmp_path / "d"), environment={"XDG_RUNTIME_DIR": str(tmp_path)})

    return read


def test_a_certificate_and_its_key(read: Any, files: Certificates) -> None:
    loaded = read(f'{OPEN}tls_certificate = "{files.certificate}"\ntls_key = "{files.key}"')
    assert (loaded.config.http.tls_certificate, loaded.config.http.tls_key) == (files.certificate, files.key)
    assert loaded.notices == ()


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"tls_key": "server.key"}, "http.tls_key: is that of a certificate"),
        ({"tls_certificate": "server.pem"}, "http.tls_certificate: needs its key"),
        ({"tls_certificate": "none", "tls_key": "server.key"}, "http.tls_certificate: {tls}/none cannot be read"),
        ({"tls_certificate": "server.pem", "tls_key": "none"}, "http.tls_key: {tls}/none cannot be read"),
        (
            {"tls_certificate": "authority.pem", "tls_key": "server.key"},
            "http.tls_key: {tls}/server.key is not",
        ),
    ],
)
def test_faults(read: Any, files: Certificates, tmp_path: Path, settings: dict[str, str], fault: str) -> None:
    directory = files.key.parent
    lines = [f'{name} = "{directory / file}"' for name, file in settings.items()]
    with pytest.raises(ConfigError) as caught:
        read(OPEN + "\n".join(lines))
    (found,) = caught.value.faults
    assert str(found).startswith(f"{tmp_path}/c.toml: " + fault.format(tls=directory))


def test_what_an_operator_should_know(read: Any, files: Certificates) -> None:
    both = f'tls_certificate = "{files.certificate}"\ntls_key = "{files.key}"\n'
    token = f'[[access.tokens]]\nname = "t"\nhash = "sha256:{"0" * 64}"\n'
    (notice,) = read('[http]\nport = 80\nhost = "0.0.0.0"\n' + token).notices
    assert notice.startswith("http.host 0.0.0.0 is reached by plain http")
    assert read('[http]\nport = 443\nhost = "0.0.0.0"\n' + both + token).notices == ()
    files.key.chmod(0o644)
    (notice,) = read(OPEN + both).notices
    assert notice == f"http.tls_key {files.key} can be read by everybody on this machine; chmod o-r"
    found = read(f'[http]\nsocket = "/tmp/h.sock"\n{both}').notices
    assert [text.partition(" ")[0] for text in found] == ["http.tls_certificate", "http.tls_key"]
    assert all(text.endswith("has no effect: there is no http.port") for text in found)
