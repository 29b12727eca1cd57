"""One client of the soak: a thread that does one thing after the other and judges every answer."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable
from pathlib import Path

from tests.soak.model import ABSENT, MIB, Keys, Record, body_of
from tiered_store import Client, NotFound, StoreError

_KEYS, _ARTIFACTS = 60, 40
_TIMEOUT_S = 20.0
_AFTER_ERROR_S = 0.02
_DO_OFTEN = {
    "get": 44,
    "put": 22,
    "delete": 6,
    "listing": 3,
    "view": 6,
    "put_artifact": 6,
    "get_artifact": 12,
    "large": 1,
}


class Worker:
    """Works until it is told to stop.

    Args:
        number: whose keys; each worker has its own.
        socket_path: the daemon's.
        prefixes: below which its keys are.
        directory: for files to upload.
    """

    def __init__(self, number: int, socket_path: Path, prefixes: list[str], directory: Path) -> None:
        self.keys = {prefix: Keys([f"{prefix}{number}/{index:03d}" for index in range(_KEYS)]) for prefix in prefixes}
        self.artifacts: dict[str, int] = {}
        self.record = Record()
        self._number = number
        self._chance = random.Random(number)
        self._client = Client(str(socket_path), timeout_s=_TIMEOUT_S, reconnect_s=5.0)
        self._file = directory / f"upload-{number}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"worker {number}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when what it is at is done."""
        self._stop.set()
        self._thread.join(4 * _TIMEOUT_S)
        if self._thread.is_alive():
            self.record.wrong.append(f"worker {self._number}: an operation hangs")
        self._client.close()

    def _work(self) -> None:
        names, weights = list(_DO_OFTEN), list(_DO_OFTEN.values())
        while not self._stop.is_set():
            name = self._chance.choices(names, weights)[0]
            try:
                getattr(self, f"_{name}")(self._chance.choice(list(self.keys.values())))
            except StoreError as error:
                self.record.errors[type(error).__name__] += 1
                self._stop.wait(_AFTER_ERROR_S)
            except Exception as error:
                self.record.wrong.append(f"{name}: {error!r}")
            else:
                self.record.done[name] += 1

    def _judge(self, what: str, is_right: bool) -> None:
        if not is_right:
            self.record.wrong.append(what)

    def _read(self, keys: Keys, read: Callable[[str], bytes]) -> None:
        key = self._chance.choice(keys.names)
        try:
            data = read(key)
        except NotFound:
            self._judge(f"{key}: not found, and may be only {keys.allowed[key]}", keys.is_right(key, None))
        else:
            what = f"{key}: {len(data)} bytes that begin {data[:40]!r}, and may be only {keys.allowed[key]}"
            self._judge(what, keys.is_right(key, data))

    def _get(self, keys: Keys) -> None:
        self._read(keys, self._client.get)

    def _view(self, keys: Keys) -> None:
        def read(key: str) -> bytes:
            with self._client.get_view(key) as view:
                return bytes(view)

        self._read(keys, read)

    def _put(self, keys: Keys) -> None:
        key, version = self._chance.choice(keys.names), keys.next_version()
        try:
            self._client.put(key, body_of(key, version))
        except StoreError:
            keys.may_have_written(key, version)
            raise
        keys.wrote(key, version)

    def _delete(self, keys: Keys) -> None:
        key = self._chance.choice(keys.names)
        try:
            self._client.delete(key)
        except StoreError:
            keys.may_have_written(key, ABSENT)
            raise
        keys.wrote(key, ABSENT)

    def _listing(self, keys: Keys) -> None:
        prefix = keys.names[0].rpartition("/")[0] + "/"
        found = [info.key for info in self._client.list(prefix)]
        self._judge(f"{prefix}: a listing with {found}", keys.is_right_listing(found))

    def _put_artifact(self, _: Keys) -> None:
        self._store(self._chance.randbytes(self._chance.choice((100, 70_000, 300_000))))

    def _large(self, _: Keys) -> None:
        """From a file, in parts."""
        self._store(self._chance.randbytes(16) * MIB)

    def _store(self, data: bytes) -> None:
        self._file.write_bytes(data)
        key = self._client.put_artifact(self._file)
        self._judge(f"{key}: another digest", key == f"sha256:{hashlib.sha256(data).hexdigest()}")
        while len(self.artifacts) >= _ARTIFACTS:
            del self.artifacts[self._chance.choice(list(self.artifacts))]
        self.artifacts[key] = len(data)

    def _get_artifact(self, _: Keys) -> None:
        if not self.artifacts:
            return
        key = self._chance.choice(list(self.artifacts))
        try:
            data = self._client.get(key)
        except NotFound:
            self._judge(f"{key}: an artifact is gone", is_right=False)
        else:
            self._judge(f"{key}: other bytes", key == f"sha256:{hashlib.sha256(data).hexdigest()}")
