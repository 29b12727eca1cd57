from __future__ import annotations

from tests.unit.wiring.conftest import CDN, S3
from tiered_store.build.cache import BuildLimits
from tiered_store.origins.s3settings import S3Settings
from tiered_store.servers.access import AccessSettings, PeerRule, Rule, TokenRule
from tiered_store.tiers.cdnsettings import CdnSettings
from tiered_store.wiring.descriptors import divide_descriptors
from tiered_store.wiring.settings import (
    access_settings,
    build_limits,
    cdn_settings,
    native_limits,
    s3_settings,
    store_limits,
    store_policies,
)


def test_the_doors_limits(configured) -> None:
    config = configured("[server]\nmax_in_flight = 7\nstall_timeout_s = 3\n[log]\nslow_request_s = 0.5")
    limits = native_limits(config, divide_descriptors(400, config))
    assert (limits.max_connections, limits.max_in_flight) == (36, 7)
    assert (limits.stall_timeout_s, limits.slow_request_s) == (3, 0.5)


def test_the_bounds_of_uploads(configured) -> None:
    limits = store_limits(configured("[fills]\nmax_uploads = 3\nupload_buffer_bytes = '5MiB'"))
    assert (limits.max_uploads, limits.upload_buffer_bytes) == (3, 5 * 2**20)


def test_who_may_do_what(configured) -> None:
    digest = "ab" * 32
    config = configured(
        f"""
        [[access.tokens]]
        name = "ci"
        hash = "sha256:{digest}"
        role = "write"
        prefixes = ["a/"]
        instances = ["x", "y"]
        can_list = true
        quarantine = true
        [[access.peers]]
        name = "me"
        role = "admin"
        uid = 7
        [[build.instances]]
        name = "x"
        anonymous = "write"
        [http]
        port = 8080
        open = true
        anonymous = "write"
        """
    )
    ci = Rule("ci", "write", ("a/",), can_list=True, instances=frozenset({"x", "y"}), quarantine=True)
    assert access_settings(config) == AccessSettings(
        tokens=[TokenRule(ci, digest)],
        peers=[PeerRule(Rule("me", "admin"), uid=7)],
        is_open=True,
        anonymous={"x": "write"},
        anonymous_objects="write",
    )


def test_policies_reach_the_store(configured) -> None:
    config = configured("[[policies]]\nprefix = 'a/'\nttl_s = 7\n[[policies]]\nprefix = 'b/'\nimmutable = true")
    policies = store_policies(config)
    assert policies.of("a/x").ttl_s == 7
    assert policies.of("b/x").immutable
    assert policies.of("cache/x").immutable


def test_readers_of_a_tools_key_wait_for_no_other_machine_unless_told_so(configured) -> None:
    config = configured("[[policies]]\nprefix = 'quarantine/'\nttl_s = 7")
    policies = store_policies(config)
    assert policies.of("build/ccache/main/x").stale_while_revalidate_s == 86_400
    assert policies.of("quarantine/a/ccache/main/x").stale_while_revalidate_s == 0


def test_the_build_caches_own_defaults_are_the_configurations(configured) -> None:
    assert build_limits(configured()) == BuildLimits()
    section = "[build]\nread_timeout_s = 1\nwrite_timeout_s = 2\nmax_entry_bytes = 7\nwrite_back = false"
    assert build_limits(configured(section)) == BuildLimits(1.0, 7, 2.0, write_back=False)


def test_what_a_bucket_of_defaults_is_told(configured) -> None:
    """The origin's own defaults are the configuration's, so that tests of the one hold for the other."""
    assert s3_settings(configured(S3).s3) == S3Settings("builds")


def test_what_a_bucket_is_told(configured) -> None:
    text = """
    provider = "cloudflare"
    account = "0ab"
    prefix = "/team/cache"
    access_key_id = "id"
    secret_access_key = "secret"
    session_token = "token"
    sse = "aws:kms"
    sse_kms_key_id = "key"
    storage_classes = { "a/" = "STANDARD_IA" }
    max_connections = 7
    connect_timeout_s = 1
    read_timeout_s = 2.5
    part_bytes = "6MiB"
    parts_at_once = 3
    """
    assert s3_settings(configured(f"[origin]\nbackend = 's3'\n[s3]\nbucket = 'builds'\n{text}").s3) == S3Settings(
        bucket="builds",
        prefix="team/cache/",
        endpoint_url="https://0ab.r2.cloudflarestorage.com",
        region="auto",
        path_style=True,
        access_key_id="id",
        secret_access_key="secret",
        session_token="token",
        sse="aws:kms",
        sse_kms_key_id="key",
        storage_classes={"a/": "STANDARD_IA"},
        max_connections=7,
        connect_timeout_s=1.0,
        read_timeout_s=2.5,
        part_bytes=6 * 2**20,
        parts_at_once=3,
    )


def test_what_a_cdn_is_told(configured) -> None:
    """The tier's own defaults are the configuration's, so that tests of the one hold for the other."""
    assert cdn_settings(configured(CDN).cdn) == CdnSettings("http://127.0.0.1:9/x")
    text = f"""{CDN}
    purge_url = "https://c/purge"
    timeout_ms = 250
    headers = {{ "X-Token" = "t" }}
    max_connections = 9
    part_bytes = "2MiB"
    parts_at_once = 3
    """
    settings = cdn_settings(configured(text).cdn)
    assert settings == CdnSettings(
        base_url="http://127.0.0.1:9/x",
        purge_url="https://c/purge",
        timeout_s=0.25,
        headers={"X-Token": "t"},
        max_connections=9,
        part_bytes=2 * 2**20,
        parts_at_once=3,
    )
    assert "'t'" not in repr(settings)
