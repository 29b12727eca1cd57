"""Two steps that Bazel and Gradle run; both are servers of their own, on the Java machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.tools import Build, Endpoint, Project, bare_environment, found, seed

_BAZEL = "bazel-2.1.0-linux-x86_64"
#: These programs are young when they end: the better compiler of the Java machine would cost more than it gains.
_QUICK_START = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData")


class Bazel(Project):
    """Bazel over HTTP: one rule makes what the other one reads."""

    tool = "bazel"
    stays = True

    def __init__(self, home: Path, endpoint: Endpoint, shared: Path) -> None:
        super().__init__(home, endpoint, shared)
        self._bazel = _bazel(shared)
        (self.tree / "WORKSPACE").touch()
        rules = [("first", "seed"), ("second", "first.out")]
        (self.tree / "BUILD").write_text(
            "".join(
                f'genrule(name="{name}", srcs=["{source}"], outs=["{name}.out"], cmd="{self.steps.make} $< $@")\n'
                for name, source in rules
            )
        )
        self.change()
        self.forget()

    def change(self) -> None:
        (self.tree / "seed").write_text(seed())

    def source(self, name: str) -> bytes:
        return (self.tree / "seed").read_bytes() if name == "first" else self.outputs()["first"]

    def cache(self) -> Sequence[str]:
        token = f"--remote_header=Authorization=Bearer {self.endpoint.token}"
        return [f"--remote_cache={self.endpoint.place('bazel')}", token]

    def command(self) -> Sequence[str | Path]:
        return [*self._bazel, "build", "--spawn_strategy=local", "--color=no", *self.cache(), "//:all"]

    def outputs(self) -> dict[str, bytes]:
        return {path.stem: path.read_bytes() for path in sorted(self.tree.glob("bazel-bin/*.out"))}

    def hits(self, build: Build) -> int:
        said = re.search(r"^INFO: \d+ process.*?(\d+) remote cache hit", build.text, re.MULTILINE)
        return int(said[1]) if said else 0

    def forget(self) -> None:
        self.run(*self._bazel, "clean")

    @classmethod
    def end(cls, shared: Path) -> None:
        environment = bare_environment(shared)
        subprocess.run(
            [*_bazel(shared), "shutdown"], env=environment, cwd=shared / "tree", check=True, capture_output=True
        )


def _bazel(shared: Path) -> list[str]:
    """Bazel with its options of start, which have to be the same for each command: else its server is started anew."""
    options = [f"--host_jvm_args={option}" for option in _QUICK_START]
    places = [f"--output_user_root={shared / 'bazel'}", "--nosystem_rc", "--nohome_rc"]
    return [found(_BAZEL), *places, *options, "--max_idle_secs=120"]


class BazelSocket(Bazel):
    """Bazel over the unix socket."""

    def cache(self) -> Sequence[str]:
        return ["--remote_cache=http://localhost/bazel/tests", f"--remote_proxy=unix:{self.endpoint.socket}"]


class Gradle(Project):
    """Gradle: two tasks of one build, and its own server."""

    tool = "gradle"

    def __init__(self, home: Path, endpoint: Endpoint, shared: Path) -> None:
        super().__init__(home, endpoint, shared)
        user_home = shared / "gradle"
        user_home.mkdir(exist_ok=True)
        options = " ".join(_QUICK_START)
        (user_home / "gradle.properties").write_text(
            f"org.gradle.daemon.idletimeout=120000\norg.gradle.jvmargs={options}\n"
        )
        self.environment |= {"GRADLE_USER_HOME": str(user_home), "JAVA_OPTS": options}
        (self.tree / "settings.gradle").write_text(
            "buildCache { local { enabled = false }; remote(org.gradle.caching.http.HttpBuildCache) {\n"
            f"url = '{endpoint.place('gradle')}/cache/'; push = true\n"
            f"credentials {{ username = 'ci'; password = '{endpoint.token}' }} }} }}\n"
        )
        task = (
            "task {name} {{ outputs.cacheIf {{ true }}; inputs.file('{name}.seed'); outputs.file('build/{name}.out')\n"
            "doLast {{ exec {{ commandLine '{make}', '{name}.seed', 'build/{name}.out' }} }} }}\n"
        )
        (self.tree / "build.gradle").write_text("".join(task.format(name=name, make=self.steps.make) for name in "ab"))
        self.change()

    def change(self) -> None:
        for name in "ab":
            (self.tree / f"{name}.seed").write_text(seed())

    def source(self, name: str) -> bytes:
        return (self.tree / f"{name}.seed").read_bytes()

    def command(self) -> Sequence[str | Path]:
        return [found("gradle"), "--build-cache", "--console=plain", "--info", "a", "b"]

    def outputs(self) -> dict[str, bytes]:
        return {path.stem: path.read_bytes() for path in sorted(self.tree.glob("build/*.out"))}

    def hits(self, build: Build) -> int:
        return sum(line.endswith(" FROM-CACHE") for line in build.text.splitlines())

    def forget(self) -> None:
        for name in ("build", ".gradle"):
            shutil.rmtree(self.tree / name, ignore_errors=True)

    @classmethod
    def end(cls, shared: Path) -> None:
        environment = bare_environment(shared) | {"GRADLE_USER_HOME": str(shared / "gradle"), "TMPDIR": str(shared)}
        environment["JAVA_OPTS"] = " ".join(_QUICK_START)
        subprocess.run([found("gradle"), "--stop"], env=environment, cwd=shared, check=True, capture_output=True)
