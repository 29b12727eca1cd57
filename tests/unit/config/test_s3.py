"""The settings of an S3 origin: what follows from the provider, what fits together, and what nobody gets to see."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit.config.test_load import faults, read
from tiered_store.config import s3checks
from tiered_store.config.model import S3Section
from tiered_store.config.providers import PRESETS, Place, place_of, said_place
from tiered_store.config.s3values import is_loopback

S3 = "[origin]\nbackend = 's3'\n[s3]\n"
AWS = f"{S3}bucket = 'builds'\nprovider = 'aws'\n"
HERE = f"{S3}bucket = 'builds'\nendpoint_url = 'http://127.0.0.1:9000'\n"
#: In every value that no message may repeat.
SECRET = "sEcReT"


def place(**settings: object) -> Place:
    return place_of(S3Section.model_validate({"bucket": "builds", **settings}))


def test_the_named_providers_are_those_with_a_preset() -> None:
    named = S3Section.model_fields["provider"].annotation.__args__  # type: ignore[union-attr]
    assert set(named) == {"", *PRESETS}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"provider": "aws"}, Place(None, None, path_style=False)),
        ({"provider": "aws", "region": "eu-west-1"}, Place(None, "eu-west-1", path_style=False)),
        (
            {"provider": "cloudflare", "account": "0ab"},
            Place("https://0ab.r2.cloudflarestorage.com", "auto", path_style=True),
        ),
        (
            {"provider": "digitalocean", "region": "fra1"},
            Place("https://fra1.digitaloceanspaces.com", "fra1", path_style=False),
        ),
        ({"provider": "tigris"}, Place("https://t3.storage.dev", "auto", path_style=False)),
        (
            {"provider": "backblaze", "region": "us-west-004"},
            Place("https://s3.us-west-004.backblazeb2.com", "us-west-004", path_style=False),
        ),
        (
            {"provider": "wasabi", "region": "eu-central-1"},
            Place("https://s3.eu-central-1.wasabisys.com", "eu-central-1", path_style=False),
        ),
        (
            {"provider": "minio", "endpoint_url": "https://m:9000"},
            Place("https://m:9000", "us-east-1", path_style=True),
        ),
        ({"endpoint_url": "https://m:9000"}, Place("https://m:9000", None, path_style=True)),
        ({"region": "eu-west-1"}, Place(None, "eu-west-1", path_style=False)),
    ],
)
def test_what_follows_from_the_provider(settings: Mapping[str, object], expected: Place) -> None:
    assert place(**settings) == expected


@pytest.mark.parametrize("provider", ["", *PRESETS])
def test_what_is_said_wins_over_the_provider(provider: str) -> None:
    said = {"endpoint_url": "https://gate.example:8443", "region": "moon-1"}
    for path_style in (True, False):
        found = place(provider=provider, path_style=path_style, **said)
        assert found == Place("https://gate.example:8443", "moon-1", path_style=path_style)


def test_the_place_in_words() -> None:
    settings = {"bucket": "builds", "provider": "aws", "region": "eu-west-1", "prefix": "team/"}
    assert said_place(S3Section.model_validate(settings)) == "bucket builds at AWS eu-west-1 (team/)"
    assert said_place(S3Section.model_validate({"bucket": "builds", "provider": "aws"})) == "bucket builds at AWS"
    settings = {"bucket": "builds", "endpoint_url": "http://h:1/"}
    assert said_place(S3Section.model_validate(settings)) == "bucket builds at http://h:1"


@pytest.mark.parametrize(
    ("written", "used"), [("", ""), ("/", ""), ("a", "a/"), ("/a", "a/"), ("a/b/", "a/b/"), ("/é/b", "é/b/")]
)
def test_a_prefix_ends_in_one_slash(tmp_path: Path, written: str, used: str) -> None:
    assert read(tmp_path, f"{AWS}prefix = '{written}'").config.s3.prefix == used


@pytest.mark.parametrize(
    "written", ["http://127.0.0.1:9000", "http://127.0.0.1:9000/", "HTTP://127.0.0.1:9000", " http://127.0.0.1:9000"]
)
def test_an_endpoint_has_one_form(tmp_path: Path, written: str) -> None:
    text = f"{S3}bucket = 'builds'\nendpoint_url = '{written}'"
    assert read(tmp_path, text).config.s3.endpoint_url == "http://127.0.0.1:9000"


def test_nothing_but_a_bucket_and_a_provider_is_needed(tmp_path: Path) -> None:
    loaded = read(tmp_path, AWS)
    assert loaded.config.origin.backend == "s3"
    assert loaded.notices == ()
    assert loaded.config.s3.storage_classes == {}
    assert loaded.config.s3.path_style is None


@pytest.mark.parametrize("bucket", ["abc", "a.b-c.d", "1ab", "a" * 63, "1.2.3", "1.2.3.4a"])
def test_names_of_buckets(tmp_path: Path, bucket: str) -> None:
    assert read(tmp_path, f"{S3}bucket = '{bucket}'\nprovider = 'aws'").config.s3.bucket == bucket


@pytest.mark.parametrize(
    ("bucket", "rule"),
    [
        ("ab", "3 to 63"),
        ("a" * 64, "3 to 63"),
        ("Builds", "lower-case"),
        ("my_builds", "lower-case"),
        ("büilds", "lower-case"),
        ("s3://builds", "name the bucket alone"),
        ("builds/team", "name the bucket alone"),
        ("-builds", "at its ends"),
        ("builds.", "at its ends"),
        ("a..b", "no two dots"),
        ("192.168.1.1", "no IP address"),
    ],
)
def test_names_that_no_bucket_has(tmp_path: Path, bucket: str, rule: str) -> None:
    (found,) = faults(tmp_path, f"{S3}bucket = '{bucket}'\nprovider = 'aws'")
    assert found.startswith(f"s3.bucket: no bucket can be called '{bucket}': ")
    assert rule in found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"{S3}provider = 'aws'", "default: s3.bucket: is missing; origin.backend is 's3', which needs"),
        (
            f"{S3}bucket = 'builds'",
            (
                "default: s3.provider: nothing says where the bucket is; set the provider (such as 'aws'), or "
                "s3.endpoint_url, or s3.region for AWS"
            ),
        ),
        (f"{S3}bucket = 'builds'\nprovider = 'azure'", "s3.provider: must be '', 'aws', 'cloudflare', "),
        (
            f"{S3}bucket = 'builds'\nprovider = 'minio'",
            "default: s3.endpoint_url: is missing; provider 'minio' needs it, such as 'https://host:9000'",
        ),
        (
            f"{S3}bucket = 'builds'\nprovider = 'cloudflare'",
            "default: s3.account: is missing; provider 'cloudflare' needs the account's id",
        ),
        (
            f"{S3}bucket = 'builds'\nprovider = 'digitalocean'",
            "default: s3.region: is missing; provider 'digitalocean' has an endpoint for each",
        ),
        (f"{S3}bucket = 'builds'\nprovider = 'backblaze'", "default: s3.region: is missing; provider 'backblaze'"),
        (f"{S3}bucket = 'builds'\nprovider = 'wasabi'", "default: s3.region: is missing; provider 'wasabi'"),
        (f"{AWS}account = 'x'", "s3.account: is part of Cloudflare's endpoint only; set s3.provider to 'cloudflare'"),
        (f"{AWS}region = 'eu_west'", "s3.region: must be letters, digits and hyphens such as 'eu-central-1', not"),
        (f"{AWS}access_key_id = 'x'", "default: s3.secret_access_key: is missing; set it too, or remove"),
        (f"{AWS}secret_access_key = 'x'", "default: s3.access_key_id: is missing; set it too, or remove"),
        (f"{AWS}session_token = 'x'", "s3.session_token: belongs to a key; set s3.access_key_id and"),
        (f"{AWS}sse = 'aes'", "s3.sse: must be '', 'AES256' or 'aws:kms', not 'aes'"),
        (f"{AWS}sse_kms_key_id = 'k'", "default: s3.sse: must be 'aws:kms', not '', because s3.sse_kms_key_id is set"),
        (f"{AWS}sse = 'AES256'\nsse_kms_key_id = 'k'", "s3.sse: must be 'aws:kms', not 'AES256', because"),
        (f"{AWS}sse = 'aws:kms'\nsse_kms_key_id = 'a b'", "s3.sse_kms_key_id: must be printable ASCII without white"),
        (f"{AWS}prefix = 'a//b'", "s3.prefix: cannot be 'a//b': "),
        (f"{AWS}prefix = '//a'", "s3.prefix: cannot be '//a': "),
        (f"{AWS}prefix = '../a'", "s3.prefix: cannot be '../a': "),
        (f"{AWS}prefix = '{'a' * 940}'", "s3.prefix: must have at most 940 bytes, S3's names have 1024; shorten it"),
        (f"{AWS}path_style = 'yes'", "s3.path_style: must be true or false, not 'yes'"),
        (f"{AWS}storage_classes = 'IA'", "s3.storage_classes: must be a table such as "),
        (f"{AWS}storage_classes = {{ '/a' = 'IA' }}", "s3.storage_classes: no name can start with '/a': "),
        (f"{AWS}storage_classes = {{ 'a/' = 'ia' }}", "s3.storage_classes: of 'a/' must be S3's name of a class"),
        (f"{AWS}storage_classes = {{ 'a/' = 5 }}", "s3.storage_classes: of 'a/' must be S3's name of a class"),
        (f"{AWS}storage_classes = {{ 'a/' = 'GLACIER' }}", "s3.storage_classes: of 'a/' cannot be 'GLACIER': "),
        (f"{AWS}storage_classes = {{ 'sha256:' = 'IA' }}", "s3.storage_classes: names the place of artifacts by"),
        (f"{AWS}max_connections = 0", "s3.max_connections: must be at least 4, not 0"),
        (f"{AWS}connect_timeout_s = 0", "s3.connect_timeout_s: must be more than 0, not 0"),
        (f"{AWS}part_bytes = '4MiB'", "s3.part_bytes: must be at least 5 MiB, not '4MiB'"),
        (f"{AWS}part_bytes = '6GiB'", "s3.part_bytes: must be at most 5 GiB, not '6GiB'"),
        (f"{AWS}buckt = 'b'", "s3.buckt: unknown setting; did you mean 'bucket'?"),
        ("[s3]\nbucket = 'builds'", "s3.bucket: has no effect, origin.backend is 'local' by default; set that to 's3'"),
    ],
)
def test_one_line_per_fault(tmp_path: Path, text: str, fault: str) -> None:
    (found,) = faults(tmp_path, text)
    assert found.startswith(fault)


def test_a_quota_bounds_no_bucket(tmp_path: Path) -> None:
    text = "[origin]\nbackend = 's3'\nquota_bytes = 5\n[s3]\nbucket = 'builds'\nprovider = 'aws'"
    (found,) = faults(tmp_path, text)
    assert found.startswith("origin.quota_bytes: bounds the memory backend only; remove it, or set a quota at the S3")


def test_parts_that_do_not_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3checks, "installed_bytes", lambda: 127 * 2**20)
    (found,) = faults(tmp_path, AWS)
    assert found == (
        "default: s3.parts_at_once: 8 parts of 8 MiB each for uploads and reads are more memory than this machine has "
        "(127 MiB); choose fewer, or smaller ones (s3.part_bytes)"
    )
    monkeypatch.setattr(s3checks, "installed_bytes", lambda: 128 * 2**20)
    read(tmp_path, AWS)


@pytest.mark.parametrize(
    "endpoint",
    [
        "minio:9000",
        "minio.example",
        "ftp://minio.example",
        "https://",
        "https://host:99999",
        "https://host:0",
        "https://host:port",
        "https://host/path",
        "https://host?query",
        "https://host/?",
        "https://host#",
        f"https://{SECRET}:{SECRET}@host",
        f"{SECRET}@host",
        "https://ho st",
        "https://hösted",
        "https://[::1",
    ],
)
def test_what_is_no_endpoint(tmp_path: Path, endpoint: str) -> None:
    (found,) = faults(tmp_path, f"{S3}bucket = 'builds'\nendpoint_url = '{endpoint}'")
    assert found.startswith("s3.endpoint_url: ")
    assert "; " in found  # what to do
    assert SECRET not in found


def test_what_only_follows_from_a_fault_is_not_said(tmp_path: Path) -> None:
    """One line for each thing to change, although a faulty value stands in as its default."""
    for name, value in {
        "provider": "'azure'",
        "region": "'a_b'",
        "endpoint_url": "'x'",
        "bucket": "'X'",
        "access_key_id": "5",
        "secret_access_key": "5",
        "sse": "'x'",
        "account": "'a_b'",
    }.items():
        settings = {"bucket": "'builds'", "provider": "'aws'", "access_key_id": "'x'", "secret_access_key": "'x'"}
        settings |= {"sse": "'aws:kms'", "sse_kms_key_id": "'k'"}
        if name in {"region", "endpoint_url"}:
            del settings["provider"]
        if name == "account":
            settings["provider"] = "'cloudflare'"
        settings[name] = value
        found = faults(tmp_path, S3 + "\n".join(f"{name} = {value}" for name, value in settings.items()))
        assert [fault.partition(":")[0] for fault in found] == [f"s3.{name}"]


@pytest.mark.parametrize("name", ["access_key_id", "secret_access_key", "session_token"])
@pytest.mark.parametrize("value", [f'"{SECRET}\\n"', f'["{SECRET}"]', f'"{SECRET} "', f'"{SECRET}é"'])
def test_no_fault_repeats_a_credential(tmp_path: Path, name: str, value: str) -> None:
    found = faults(tmp_path, f"{AWS}{name} = {value}")
    assert found[0].startswith(f"s3.{name}: ")
    assert SECRET not in "\n".join(found)


def test_nothing_shows_a_credential(tmp_path: Path) -> None:
    names = ("access_key_id", "secret_access_key", "session_token")
    environment = {f"TIERED_STORE_S3__{name.upper()}": SECRET for name in names}
    loaded = read(tmp_path, AWS, environment)
    assert loaded.config.s3.secret_access_key.get_secret_value() == SECRET
    assert SECRET not in repr(loaded) + str(loaded.config) + str(loaded.sources) + str(loaded.config.model_dump())


class TestSourcesAndNotices:
    ENVIRONMENT: Mapping[str, str] = {
        "STORAGE_BACKEND": "s3",
        "S3_BUCKET": "builds",
        "S3_REGION": "eu-west-1",
        "S3_ENDPOINT": "https://gate.example",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": SECRET,
    }

    def test_the_environment_alone(self, tmp_path: Path) -> None:
        loaded = read(tmp_path, "", self.ENVIRONMENT)
        section = loaded.config.s3
        assert (section.bucket, section.region, section.endpoint_url) == ("builds", "eu-west-1", "https://gate.example")
        assert loaded.sources["s3.endpoint_url"] == "S3_ENDPOINT"
        assert loaded.notices == ()
        # The SDK reads its own variables, and reads them again when they expire.
        assert {section.access_key_id.get_secret_value(), section.secret_access_key.get_secret_value()} == {""}

    def test_a_region_alone_is_one_of_aws(self, tmp_path: Path) -> None:
        environment = {name: self.ENVIRONMENT[name] for name in ("STORAGE_BACKEND", "S3_BUCKET", "S3_REGION")}
        assert place_of(read(tmp_path, "", environment).config.s3) == Place(None, "eu-west-1", path_style=False)

    def test_the_short_names_win_over_the_file_and_say_so(self, tmp_path: Path) -> None:
        loaded = read(tmp_path, AWS, {"S3_BUCKET": "other-builds"})
        assert loaded.config.s3.bucket == "other-builds"
        assert loaded.notices == (f"s3.bucket from {tmp_path}/c.toml is not used, because S3_BUCKET is set",)

    @pytest.mark.parametrize("backend", ["", "local", "memory"])
    def test_the_short_names_are_not_judged_without_an_s3_origin(self, tmp_path: Path, backend: str) -> None:
        """Other programs read them too, and may have other ideas of what is in them."""
        text = f"[origin]\nbackend = '{backend}'" if backend else ""
        loaded = read(tmp_path, text, {"S3_BUCKET": "s3://x", "S3_ENDPOINT": "minio:9000"})
        assert loaded.config.s3 == S3Section()
        assert sorted(loaded.notices) == [
            "S3_BUCKET has no effect: origin.backend is not 's3'",
            "S3_ENDPOINT has no effect: origin.backend is not 's3'",
        ]

    def test_a_section_beside_another_backend_is_said(self, tmp_path: Path) -> None:
        text = "[origin]\nbackend = 'memory'\n[s3]\nbucket = 'builds'\nregion = 'x'"
        assert read(tmp_path, text).notices == (
            f"s3.bucket from {tmp_path}/c.toml has no effect: origin.backend is 'memory'",
            f"s3.region from {tmp_path}/c.toml has no effect: origin.backend is 'memory'",
        )

    def test_a_directory_beside_a_bucket_is_said(self, tmp_path: Path) -> None:
        loaded = read(tmp_path, AWS, {"STORAGE_LOCAL_PATH": "/dev/null/x"})
        assert loaded.notices == ("origin.path from STORAGE_LOCAL_PATH has no effect: origin.backend is 's3'",)

    @pytest.mark.parametrize("host", ["gate.example", "10.0.0.1:9000", "localhost.example", "[fd00::1]:9000"])
    def test_plain_http_to_another_machine_is_said(self, tmp_path: Path, host: str) -> None:
        loaded = read(tmp_path, f"{S3}bucket = 'builds'\nendpoint_url = 'http://{host}'")
        (notice,) = loaded.notices
        assert notice.startswith(f"s3.endpoint_url http://{host} is plain http to another machine")
        assert notice.endswith("use https")
        assert read(tmp_path, f"{S3}bucket = 'builds'\nendpoint_url = 'https://{host}'").notices == ()

    def test_plain_http_on_this_machine_is_not(self, tmp_path: Path) -> None:
        assert read(tmp_path, HERE).notices == ()


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9:80", "[::1]:9000"])
def test_this_machine(host: str) -> None:
    assert is_loopback(f"http://{host}")


def test_judging_reads_no_credentials_of_the_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the SDK finds is its own business: a check must not wait for a machine's metadata service."""
    monkeypatch.setitem(os.environ, "AWS_PROFILE", "no-such-profile")
    assert read(tmp_path, AWS).config.s3.bucket == "builds"
