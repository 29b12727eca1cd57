"""The object API held against its own description, by schemathesis and a real daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import ROOT, RunningDaemon, clean_environment
from tests.support.servers import free_port
from tiered_store.servers.credentials import hash_of, new_token

SETTINGS = ROOT / "tests" / "support" / "schemathesis.toml"
#: For each operation, beside those that cover what its description says: a run stays below a minute.
EXAMPLES = 3


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_door_keeps_its_word(daemon_factory: Callable[..., RunningDaemon], tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    if not program.exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "schemathesis is not installed: pip install schemathesis"
        )
    token, port = new_token(), free_port()
    rule = {"name": "root", "hash": f"sha256:{hash_of(token)}", "role": "admin"}
    # Kept in memory, where every key can be had: a directory refuses some for reasons of its file system.
    config = {"http": {"port": port}, "access": {"tokens": [rule]}, "origin": {"backend": "memory"}}
    daemon = daemon_factory(config=config)
    daemon.client().put("sessions/a/files/x.txt", b"the object of the examples")
    command = [program, "--config-file", SETTINGS, "--no-color", "run", f"http://127.0.0.1:{port}/v1/openapi.json"]
    command += ["--header", f"Authorization: Bearer {token}", "--checks", "all", "--seed", "1", "--no-shrink"]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--warnings", "off"]
    done = subprocess.run(
        command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
