"""A store without a daemon, for tests of the command line alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner, Result

from tiered_store.cli import session
from tiered_store.cli.program import program
from tiered_store.client.trees.sync import SyncTrees
from tiered_store.errors import DaemonUnavailable, NotFound, StoreError
from tiered_store.objects import ObjectInfo

PIECE = 1024


class FakeClient(SyncTrees):
    """The client's methods over a dict. ``fails`` is raised by every operation."""

    _is_lenient = False
    objects: dict[str, tuple[ObjectInfo, bytes]]
    opened: list[tuple[str | None, float | None]]
    fails: BaseException | None

    def __init__(self, socket_path: str | None = None, *, timeout_s: float | None = None) -> None:
        self.socket_path = socket_path or "/default.sock"
        self.opened.append((socket_path, timeout_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _find(self, key: str) -> tuple[ObjectInfo, bytes]:
        if self.fails is not None:
            raise self.fails
        if key not in self.objects:
            raise NotFound("no object under this key", key=key)
        return self.objects[key]

    def put(self, key: str, data: bytes, **headers: Any) -> ObjectInfo:
        if self.fails is not None:
            raise self.fails
        info = ObjectInfo(
            key, len(data), f"etag-{len(self.objects)}", headers.get("content_type"), headers.get("metadata") or {}
        )
        self.objects[key] = info, data
        return info

    def put_file(self, key: str, source: Any, *, progress: Any = None, **headers: Any) -> ObjectInfo:
        data = Path(source).read_bytes() if isinstance(source, str) else source.read()
        if progress is not None:
            progress(len(data), None)
        return self.put(key, data, **headers)

    def put_artifact(self, source: Any, *, content_type: str | None = None, progress: Any = None) -> str:
        data = Path(source).read_bytes() if isinstance(source, str) else source.read()
        return self.put(f"sha256:{hashlib.sha256(data).hexdigest()}", data, content_type=content_type).key

    def put_many(self, items: Mapping[str, bytes]) -> dict[str, ObjectInfo]:
        return {key: self.put(key, data) for key, data in items.items()}

    def get(self, key: str) -> bytes:
        return self._find(key)[1]

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        self._fail_if_told()
        return {key: self.objects[key][1] for key in keys if key in self.objects}

    def exists_many(self, keys: Iterable[str]) -> dict[str, bool]:
        self._fail_if_told()
        return {key: key in self.objects for key in keys}

    def exists(self, key: str) -> bool:
        return self.exists_many([key])[key]

    def get_view(self, key: str) -> memoryview:
        return memoryview(self._find(key)[1])

    def get_into(self, key: str, write: Callable[[bytes], object], *, progress: Any = None) -> ObjectInfo:
        info, data = self._find(key)
        for start in range(0, len(data), PIECE):
            write(data[start : start + PIECE])
        return info

    def get_file(self, key: str, path: str, *, progress: Any = None) -> ObjectInfo:
        info, data = self._find(key)
        Path(path).write_bytes(data)
        if progress is not None:
            progress(len(data), len(data))
        return info

    def stat(self, key: str) -> ObjectInfo:
        return self._find(key)[0]

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        if self.fails is not None:
            raise self.fails
        yield from (info for key, (info, _) in sorted(self.objects.items()) if key.startswith(prefix))

    def copy(self, source: str, target: str) -> ObjectInfo:
        return self.put(target, self._find(source)[1])

    def delete(self, key: str) -> bool:
        return self.objects.pop(key, None) is not None

    def delete_prefix(self, prefix: str) -> int:
        return sum(self.delete(key) for key in list(self.objects) if key.startswith(prefix))

    def ping(self) -> float:
        self._fail_if_told()
        return 0.000123

    def flush(self, timeout_s: float | None = None) -> int:
        self._fail_if_told()
        type(self).flushes.append(timeout_s)
        return len(self.objects)

    def stats(self) -> dict[str, Any]:
        self._fail_if_told()
        tier = {"hits": 3, "misses": 1, "errors": 0, "bytes": 64_000_000, "entries": 2, "max_bytes": 2**26}
        origin = {"hits": 1, "puts": 7, "bytes_read": 2**20}
        cdn = {"hits": 2, "lies": 1, "bytes_read": 2**20, "breaker_open": True}
        places = {"memory": tier, "disk": tier, "cdn": cdn, "origin": origin}
        return {**places, "fills": 4, "uptime_s": 1.25, "rss_bytes": 2**20}

    def _fail_if_told(self) -> None:
        if self.fails is not None:
            raise self.fails


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> type[FakeClient]:
    """What the commands talk to."""
    for variable in ("TIERED_STORE_SOCKET", "TIERED_STORE_CONFIG", "TIERED_STORE_SERVER__SOCKET"):
        monkeypatch.delenv(variable, raising=False)
    fresh = type("Fresh", (FakeClient,), {"objects": {}, "opened": [], "flushes": [], "fails": None})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("GITHUB_OUTPUT", raising=False)
    monkeypatch.setattr(session, "Client", fresh)
    return fresh


@pytest.fixture
def run(store: type[FakeClient]) -> Callable[..., Result]:
    """Runs a command line."""

    def invoke(*arguments: str, stdin: bytes | str | None = None) -> Result:
        return CliRunner().invoke(program, list(arguments), input=stdin, prog_name="tiered-store")

    return invoke


def refusals() -> list[tuple[StoreError, int]]:
    """Errors and their exit codes."""
    return [(NotFound("no object", key="k"), 1), (DaemonUnavailable("nobody there"), 3), (StoreError("odd"), 1)]
