"""Two packages of a workspace that Turborepo and Nx build."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from scripts.tools import NODE_MODULES
from tests.support.tools import Build, Endpoint, Project, found, seed


class _Workspace(Project):
    """npm packages whose one script makes one file."""

    names = ("a", "b")

    def __init__(self, home: Path, endpoint: Endpoint, shared: Path) -> None:
        super().__init__(home, endpoint, shared)
        for name in self.names:
            package = self.tree / "packages" / name
            package.mkdir(parents=True)
            scripts = {"build": f"{self.steps.make} seed dist/out"}
            self.write(f"packages/{name}/package.json", {"name": name, "version": "1.0.0", "scripts": scripts})
        self.change()

    def write(self, name: str, content: object) -> None:
        (self.tree / name).write_text(json.dumps(content))

    def change(self) -> None:
        for name in self.names:
            (self.tree / "packages" / name / "seed").write_text(seed())

    def source(self, name: str) -> bytes:
        return (self.tree / "packages" / name / "seed").read_bytes()

    def outputs(self) -> dict[str, bytes]:
        return {path.parts[-3]: path.read_bytes() for path in sorted(self.tree.glob("packages/*/dist/out"))}

    def forget(self) -> None:
        remembered = [".turbo", ".nx", "packages/*/dist", "packages/*/.turbo", "node_modules/.cache"]
        for path in [path for pattern in remembered for path in self.tree.glob(pattern)]:
            shutil.rmtree(path)


class Turbo(_Workspace):
    """Turborepo."""

    tool = "turbo"
    is_signed = False

    def __init__(self, home: Path, endpoint: Endpoint, shared: Path) -> None:
        super().__init__(home, endpoint, shared)
        package = {"name": "w", "private": True, "packageManager": "npm@11.0.0", "workspaces": ["packages/*"]}
        self.write("package.json", package)
        self.write("package-lock.json", {"lockfileVersion": 3, "packages": {}})
        self.write(
            "turbo.json", {"tasks": {"build": {"outputs": ["dist/**"]}}, "remoteCache": {"signature": self.is_signed}}
        )
        self.environment |= {
            "TURBO_API": endpoint.place("turbo"),
            "TURBO_TOKEN": endpoint.token,
            "TURBO_TEAM": "team",
            "TURBO_TELEMETRY_DISABLED": "1",
            "DO_NOT_TRACK": "1",
        }

    def command(self) -> Sequence[str | Path]:
        return [found("turbo"), "run", "build"]

    def hits(self, build: Build) -> int:
        return build.text.count("cache hit, replaying")


class SignedTurbo(Turbo):
    """Turborepo that signs what it stores and looks at the signature of what it gets."""

    is_signed = True

    def __init__(self, home: Path, endpoint: Endpoint, shared: Path) -> None:
        super().__init__(home, endpoint, shared)
        self.environment["TURBO_REMOTE_CACHE_SIGNATURE_KEY"] = "k" * 32


class Nx(_Workspace):
    """Nx."""

    tool = "nx"
    needs_a_daemon = "always"

    def __init__(self, home: Path, endpoint: Endpoint, shared: Path) -> None:
        super().__init__(home, endpoint, shared)
        self.write("package.json", {"name": "w", "private": True, "workspaces": ["packages/*"]})
        targets = {"build": {"cache": True, "outputs": ["{projectRoot}/dist"]}}
        self.write("nx.json", {"targetDefaults": targets, "neverConnectToCloud": True})
        (self.tree / ".gitignore").write_text("node_modules\n.nx\ndist\n")
        (self.tree / "node_modules").symlink_to(NODE_MODULES)
        self.environment |= {
            "CI": "1",
            "NX_DAEMON": "false",
            "NX_NO_CLOUD": "true",
            "NX_NATIVE_FILE_CACHE_DIRECTORY": str(home / "nx"),
            "NX_SELF_HOSTED_REMOTE_CACHE_SERVER": endpoint.place("nx"),
            "NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN": endpoint.token,
        }

    def command(self) -> Sequence[str | Path]:
        return [found("nx"), "run-many", "-t", "build", "--output-style=static"]

    def hits(self, build: Build) -> int:
        return build.text.count("[remote cache]")
