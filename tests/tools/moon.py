"""Two projects of a workspace that moon builds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.support.tools import Build, Endpoint, Project, found, seed

_AUTHOR = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")


class Moon(Project):
    """moon with the HTTP form of its remote cache: Bazel's paths, with action results in JSON."""

    tool = "moon"
    names = ("a", "b")

    def __init__(self, home: Path, endpoint: Endpoint, shared: Path) -> None:
        super().__init__(home, endpoint, shared)
        remote = {
            "api": "http",
            "host": f"{endpoint.url}/bazel",
            "auth": {"token": "TESTS_TOKEN"},  # the name of a variable
            "cache": {"instanceName": "tests"},
        }
        self.write(".moon/workspace.yml", {"projects": ["packages/*"], "telemetry": False, "remote": remote})
        for name in self.names:
            task = {"command": f"{self.steps.make} seed dist/out", "inputs": ["seed"], "outputs": ["dist/out"]}
            self.write(f"packages/{name}/moon.yml", {"tasks": {"build": task}})
        (self.tree / ".gitignore").write_text(".moon/cache\ndist\n")
        # What it compiles of its own at its first start is kept for the next project.
        self.environment |= {
            "TESTS_TOKEN": endpoint.token,
            "XDG_CACHE_HOME": str(shared / "cache"),
            "MOON_HOME": str(shared / "moon"),
        }
        self.change()
        # It has no remote cache where there is no git, and fails without a commit.
        for arguments in (["init", "--quiet"], ["add", "."], [*_AUTHOR, "commit", "--quiet", "--message=tests"]):
            assert self.run(found("git"), *arguments).is_green

    def write(self, name: str, content: object) -> None:
        """A file of settings: JSON is YAML."""
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def change(self) -> None:
        for name in self.names:
            (self.tree / "packages" / name / "seed").write_text(seed())

    def source(self, name: str) -> bytes:
        return (self.tree / "packages" / name / "seed").read_bytes()

    def command(self) -> Sequence[str | Path]:
        return [found("moon"), "run", ":build"]

    def outputs(self) -> dict[str, bytes]:
        return {path.parts[-3]: path.read_bytes() for path in sorted(self.tree.glob("packages/*/dist/out"))}

    def hits(self, build: Build) -> int:
        return build.text.count("(cached from remote")

    def forget(self) -> None:
        for path in [self.tree / ".moon" / "cache", *self.tree.glob("packages/*/dist")]:
            shutil.rmtree(path, ignore_errors=True)
