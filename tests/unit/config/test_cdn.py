"""The settings of a cdn: what is refused, what is said, and that no message repeats a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tiered_store.config.faults import ConfigError
from tiered_store.config.load import Flags, Loaded, load

SECRET = "ToKeN"
CDN = '[cdn]\nbase_url = "https://cdn.example.com/b"\n'


@pytest.fixture
def loaded(tmp_path: Path):
    def read(text: str = "", **environment: str) -> Loaded:
        path = tmp_path / "c.toml"
        path.write_text(text)
        variables = {"XDG_RUNTIME_DIR": str(tmp_path), **environment}
        return load(path, flags=Flags(data_dir=tmp_path / "d"), environment=variables)

    return read


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", ""),
        ("https://cdn.example.com", "https://cdn.example.com"),
        ("https://cdn.example.com/", "https://cdn.example.com"),
        ("http://127.0.0.1:8080/a/b%20c//", "http://127.0.0.1:8080/a/b%20c"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("https://c:/x", "https://c/x"),
    ],
)
@pytest.mark.parametrize("setting", ["base_url", "purge_url"])
def test_urls(loaded: Any, text: str, url: str, setting: str) -> None:
    assert getattr(loaded(f'[cdn]\n{setting} = "{text}"').config.cdn, setting) == url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cdn.example.com", "must begin with 'https://'"),
        ("ftp://cdn.example.com", "must begin with 'https://'"),
        ("https://", "must begin with 'https://'"),
        (f"https://user:{SECRET}@c", "must not hold credentials"),
        (f"https://c/?token={SECRET}", "no query"),
        (f"https://c/#{SECRET}", "no query"),
        ("https://c:99999", "no URL that can be reached"),
        ("https://c:0", "no URL that can be reached"),
        ("https://c/a b", "percent-encoded"),
        ("https://c/a//b", "no empty segment"),
        ("https://c/../b", "no '.' or '..'"),
        ("https://ü/b", "must be ASCII"),
    ],
)
def test_urls_that_are_refused(loaded: Any, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(f'[cdn]\nbase_url = "{text}"')
    (fault,) = caught.value.faults
    assert fault.setting == "cdn.base_url"
    assert message in fault.message
    assert SECRET not in str(fault)


def test_headers_are_kept_from_sight(loaded: Any) -> None:
    config = loaded(f'{CDN}headers = {{ "X-Token" = "{SECRET}" }}').config
    assert {name: value.get_secret_value() for name, value in config.cdn.headers.items()} == {"X-Token": SECRET}
    assert SECRET not in repr(config)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        (f'"{SECRET}"', "must be a table"),
        ("5", "must be a table"),
        (f'{{ "a b" = "{SECRET}" }}', "none of a header"),
        (f'{{ "Range" = "{SECRET}" }}', "must not set 'Range'"),
        (f'{{ "X" = "{SECRET}\\n" }}', "printable ASCII"),
        (f'{{ "X" = "{SECRET}ü" }}', "printable ASCII"),
        ('{ "X" = 5 }', "printable ASCII"),
        ('{ "X-A" = "1", "x-a" = "2" }', "twice"),
    ],
)
def test_headers_that_are_refused(loaded: Any, headers: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(f"{CDN}headers = {headers}")
    (fault,) = caught.value.faults
    assert fault.setting == "cdn.headers"
    assert message in fault.message
    assert SECRET not in str(fault)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("timeout_ms = 0", "cdn.timeout_ms: must be at least 1"),
        ("timeout_ms = 0.5", "cdn.timeout_ms: must be a whole number"),
        ("part_bytes = '1KiB'", "cdn.part_bytes: must be at least 1 MiB"),
        ("max_connections = 8", "cdn.parts_at_once: must be less than cdn.max_connections (8)"),
        ("part_bytes = '1GiB'\nparts_at_once = 1000\nmax_connections = 1001", "cdn.parts_at_once: 1000 parts of 1 GiB"),
        ("purge = 'fastly'", "cdn.purge: must be '' or 'http', not 'fastly'"),
    ],
)
def test_faults(loaded: Any, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(CDN + text)
    (fault,) = caught.value.faults
    assert f"{fault.setting}: {fault.message}".startswith(said)


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        ("[cdn]\ntimeout_ms = 5", "cdn.timeout_ms from {file} has no effect: there is no cdn.base_url"),
        ('[[policies]]\nprefix = "a"\ncdn = true', "policies[1].cdn has no effect: there is no cdn.base_url"),
        (f'{CDN}purge_url = "https://c"', "cdn.purge_url from {file} has no effect: cdn.purge is empty"),
        ('[cdn]\nbase_url = "http://c"', "cdn.base_url http://c is plain http to another machine"),
    ],
)
def test_notices(loaded: Any, tmp_path: Path, text: str, notice: str) -> None:
    (said,) = loaded(text).notices
    assert said.startswith(notice.format(file=tmp_path / "c.toml"))


@pytest.mark.parametrize(
    "text", [CDN, '[cdn]\nbase_url = "http://127.0.0.1:1"', '[[policies]]\nprefix = "a"\ncdn = false']
)
def test_what_needs_no_word(loaded: Any, text: str) -> None:
    assert loaded(text).notices == ()


def test_the_environment(loaded: Any) -> None:
    cdn = loaded(STORAGE_CDN_BASE_URL="https://c/x/", STORAGE_CDN_TIMEOUT_MS="250").config.cdn
    assert (cdn.base_url, cdn.timeout_ms) == ("https://c/x", 250)
