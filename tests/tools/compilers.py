"""Two C files that ccache and sccache compile."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.support.ccache import ccache_with
from tests.support.servers import free_port, started
from tests.support.tools import Build, Endpoint, Project, found, seed


class _Compiled(Project):
    """Objects of two sources, each so large, compressed too, that the disk tier has it as a file."""

    names = ("a", "b")

    def __init__(self, home: Path, endpoint: Endpoint, shared: Path) -> None:
        super().__init__(home, endpoint, shared)
        self.launcher = found(self.tool)
        self.change()

    def change(self) -> None:
        for name in self.names:
            text = "".join(seed().strip() for _ in range(6000))
            (self.tree / f"{name}.c").write_text(f'const char {name}[] = "{text}";\n')

    def command(self) -> Sequence[str | Path]:
        # As make does it: one after the other, and no further after one that failed.
        lines = [f"{self.launcher} {self.steps.compiler} -O1 -c {name}.c -o {name}.o" for name in self.names]
        return ["sh", "-e", "-c", "\n".join(lines)]

    def outputs(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.tree.glob("*.o"))}

    def is_sound(self) -> bool:
        made = self.outputs()
        for name in self.names:
            subprocess.run([found("gcc"), "-O1", "-c", f"{name}.c", "-o", "reference"], cwd=self.tree, check=True)
            if made.get(f"{name}.o") != (self.tree / "reference").read_bytes():
                return False
        return True

    def forget(self) -> None:
        for path in self.tree.glob("*.o"):
            path.unlink()


class Ccache(_Compiled):
    """ccache: a process per compilation. Its layout is one of ``subdirs``, ``flat`` and ``bazel``."""

    tool = "ccache"
    layout = "subdirs"

    def __init__(self, home: Path, endpoint: Endpoint, shared: Path) -> None:
        super().__init__(home, endpoint, shared)
        self.environment |= {
            "CCACHE_DIR": str(home / "ccache"),
            "CCACHE_CONFIGPATH": "/dev/null",
            "CCACHE_REMOTE_STORAGE": self.storage(),
        }

    def storage(self) -> str:
        return f"{self.endpoint.place('ccache')}|layout={self.layout}|bearer-token={self.endpoint.token}"

    def prepare(self) -> None:
        self.run(self.launcher, "--zero-stats")

    def hits(self, build: Build) -> int:
        said = self.run(self.launcher, "--print-stats").text
        numbers = dict(re.findall(r"^(\w+)\t(\d+)$", said, re.MULTILINE))
        return int(numbers["remote_storage_hit"])

    def forget(self) -> None:
        super().forget()
        shutil.rmtree(self.home / "ccache", ignore_errors=True)


class CcacheFlat(Ccache):
    """Its keys in one directory."""

    layout = "flat"


class CcacheBazel(Ccache):
    """Its keys as Bazel has them, with bodies that are none of Bazel's."""

    layout = "bazel"


class CcacheRedis(Ccache):
    """ccache over the socket that speaks Redis' protocol."""

    feature = "redis+unix"

    def __init__(self, home: Path, endpoint: Endpoint, shared: Path) -> None:
        super().__init__(home, endpoint, shared)
        self.launcher = ccache_with(self.feature)

    def storage(self) -> str:
        return f"redis+unix://{self.endpoint.token}@localhost{self.endpoint.resp}"


class CcacheCrsh(CcacheRedis):
    """A later ccache over the socket that speaks its own protocol."""

    feature = "crsh"

    def storage(self) -> str:
        return f"crsh:{self.endpoint.crsh}"


class Sccache(_Compiled):
    """sccache with WebDAV: a server of its own, which asks the cache on behalf of the compilations."""

    tool = "sccache"
    needs_a_daemon = "at its start"

    def __init__(self, home: Path, endpoint: Endpoint, shared: Path) -> None:
        super().__init__(home, endpoint, shared)
        self.environment |= {
            "SCCACHE_CONF": "/nonexistent",
            "SCCACHE_DIR": str(home / "sccache"),
            "SCCACHE_SERVER_PORT": str(free_port()),
        } | self.storage()
        self._server: subprocess.Popen[bytes] | None = None

    def storage(self) -> dict[str, str]:
        return {
            "SCCACHE_WEBDAV_ENDPOINT": self.endpoint.place("sccache"),
            "SCCACHE_WEBDAV_TOKEN": self.endpoint.token,
        }

    def prepare(self) -> None:
        """Start its server, which does not go to the background, so that it ends when the tests do."""
        if self._server is None:
            environment = self.environment | {"SCCACHE_START_SERVER": "1", "SCCACHE_NO_DAEMON": "1"}
            port = int(environment["SCCACHE_SERVER_PORT"])
            command = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), self.launcher]
            # One that will not start has said so in its log. Compilations fail then, which is for the test to see.
            with suppress(AssertionError):
                self._server = started(command, port, self.home / "sccache.log")
        self.run(self.launcher, "--zero-stats")

    def hits(self, build: Build) -> int:
        said = self.run(self.launcher, "--show-stats", "--stats-format=json").text
        return int(sum(json.loads(said)["stats"]["cache_hits"]["counts"].values()))

    def forget(self) -> None:
        """Its server remembers nothing but where the cache is; a new one asks the cache anew."""
        super().forget()
        self._stop()
        shutil.rmtree(self.home / "sccache", ignore_errors=True)

    def _stop(self) -> None:
        if self._server is not None:
            self.run(self.launcher, "--stop-server")
            try:
                self._server.wait(20)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server = None

    def close(self) -> None:
        super().close()
        self._stop()


class SccacheS3(Sccache):
    """sccache with its S3 client; the bucket is the instance, the access key the token."""

    def storage(self) -> dict[str, str]:
        return {
            "SCCACHE_BUCKET": "tests",
            "SCCACHE_ENDPOINT": f"{self.endpoint.url}/s3",
            "SCCACHE_REGION": "us-east-1",
            "SCCACHE_S3_USE_SSL": "false",
            "AWS_ACCESS_KEY_ID": self.endpoint.token,
            "AWS_SECRET_ACCESS_KEY": "any",
        }
