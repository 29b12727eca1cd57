"""The commands that speak to a bucket, on rclone's server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import Result

from tests.support.daemon import toml_of
from tests.support.s3 import KEY_ID, SECRET, S3Server, shared_server

Run = Callable[..., Result]


@dataclass
class Bucket:
    """One of its own, and the file of a daemon that has it below a prefix."""

    server: S3Server
    name: str
    file: str

    def begin(self, *keys: str) -> None:
        for key in keys:
            self.server.client.create_multipart_upload(Bucket=self.name, Key=key)

    def unfinished(self) -> list[str]:
        found = self.server.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])
        return sorted(upload["Key"] for upload in found)

    def keys(self) -> list[str]:
        return [item["Key"] for item in self.server.client.list_objects_v2(Bucket=self.name).get("Contents", [])]


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    server = shared_server()
    name = server.settings().bucket
    said = {"bucket": name, "endpoint_url": server.url, "region": "us-east-1", "prefix": "team"}
    said |= {"access_key_id": KEY_ID, "secret_access_key": SECRET}
    (tmp_path / "c.toml").write_text(toml_of({"origin": {"backend": "s3"}, "s3": said}))
    return Bucket(server, name, f"{tmp_path}/c.toml")


def test_connect_tries_parts_and_storage_classes_too(run: Run, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = '{ "builds/" = "STANDARD_IA", "logs" = "GLACIER_IR", "" = "ONEZONE_IA" }'
    monkeypatch.setenv("TIERED_STORE_S3__STORAGE_CLASSES", classes)
    result = run("check-config", bucket.file, "--connect", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert [step["name"] for step in found["steps"]] == [
        *["put", "get", "stat", "list", "copy", "put in parts"],
        *["put as STANDARD_IA", "put as GLACIER_IR", "put as ONEZONE_IA", "delete", "delete several"],
    ]
    assert found["ok"]
    assert found["origin"] == f"bucket {bucket.name} at {bucket.server.url} (team/)"
    assert (bucket.keys(), bucket.unfinished()) == ([], [])


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("BUCKET", "no-such-bucket", "the bucket 'no-such-bucket' does not exist there; see s3.bucket"),
        ("SECRET_ACCESS_KEY", "sEcReT", "see s3.access_key_id and s3.secret_access_key"),
        ("ACCESS_KEY_ID", "sEcReT", "see s3.access_key_id and s3.secret_access_key"),
        ("ENDPOINT_URL", "http://127.0.0.1:9", "no connection to the origin at http://127.0.0.1:9"),
    ],
)
def test_connect_says_what_to_change(
    run: Run, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(f"TIERED_STORE_S3__{variable}", value)
    result = run("check-config", bucket.file, "--connect")
    assert result.exit_code == 1
    assert words in result.stdout.splitlines()[2]
    assert result.stdout.splitlines()[2].startswith("  put                  fails: ")
    assert "delete               not tried: " in result.stdout
    for secret in (SECRET, "sEcReT"):
        assert secret not in result.stdout + result.stderr


class TestAbortUploads:
    def test_old_ones_below_the_prefix(self, run: Run, bucket: Bucket) -> None:
        bucket.begin("team/a", "team/b", "other/c", "team/.tiered_store_x/e")
        result = run("abort-uploads", bucket.file)
        assert (result.exit_code, result.stdout) == (0, "0 aborted, 2 younger ones left alone\n")
        result = run("abort-uploads", bucket.file, "--older-than", "0", "--dry-run")
        assert result.exit_code == 0
        assert [line.split()[-1] for line in result.stdout.splitlines()[:2]] == ["a", "b"]
        assert result.stdout.splitlines()[2] == "2 to be aborted, 0 younger ones left alone"
        assert len(bucket.unfinished()) == 4
        result = run("abort-uploads", bucket.file, "--older-than", "0s", "--json")
        found = json.loads(result.stdout)
        assert ([upload["name"] for upload in found["uploads"]], found["aborted"]) == (["a", "b"], 2)
        assert bucket.unfinished() == ["other/c", "team/.tiered_store_x/e"]

    def test_the_file_may_come_from_the_environment(
        self, run: Run, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TIERED_STORE_CONFIG", bucket.file)
        assert run("abort-uploads").stdout == "0 aborted, 0 younger ones left alone\n"

    def test_what_is_set_in_vain_is_said(self, run: Run, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TIERED_STORE_SERVICE_HOST", "10.0.0.1")
        result = run("abort-uploads", bucket.file)
        assert result.exit_code == 0
        assert "TIERED_STORE_SERVICE_HOST names no setting" in result.stderr

    @pytest.mark.parametrize("time", ["", "soon", "1w", "-1h", "1 2h"])
    def test_what_is_no_time(self, run: Run, bucket: Bucket, time: str) -> None:
        result = run("abort-uploads", bucket.file, f"--older-than={time}")
        assert result.exit_code == 2
        assert "no time such as '24h'" in result.stderr

    def test_another_origin(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TIERED_STORE_ORIGIN__BACKEND", "memory")
        result = run("abort-uploads")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "'memory': only an S3 origin has unfinished uploads" in result.stderr

    def test_a_faulty_file(self, run: Run, tmp_path: Path) -> None:
        result = run("abort-uploads", f"{tmp_path}/none.toml")
        assert (result.exit_code, result.stdout) == (2, "")

    def test_a_server_that_says_no(self, run: Run, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TIERED_STORE_S3__SECRET_ACCESS_KEY", "wrong")
        result = run("abort-uploads", bucket.file)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "see s3.access_key_id and s3.secret_access_key" in result.stderr
