"""A daemon in this process, behind whose S3 origin is a fault proxy, and what its requests leave behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.daemon import toml_of
from tests.support.faultproxy import FaultProxy
from tests.support.links import until
from tests.support.origins import open_descriptors
from tests.support.s3 import KEY_ID, SECRET
from tiered_store.aio.offload import Offload
from tiered_store.config.load import Flags, load
from tiered_store.origins.s3 import S3Origin
from tiered_store.origins.s3settings import S3Settings
from tiered_store.servers.native import NativeDoor
from tiered_store.servers.sockets import bind_unix
from tiered_store.wiring.descriptors import divide_descriptors
from tiered_store.wiring.opening import open_store
from tiered_store.wiring.settings import native_limits

__all__ = ["Subject", "direct", "s3_section", "subject"]

MAX_CONNECTIONS = 6


def s3_section(settings: S3Settings, url: str, **more: object) -> dict[str, Any]:
    """The configuration's section for a bucket, reached at ``url``, with waits that suit a test."""
    said: dict[str, Any] = {"bucket": settings.bucket, "endpoint_url": url, "region": "us-east-1"}
    said |= {"access_key_id": KEY_ID, "secret_access_key": SECRET, "max_connections": MAX_CONNECTIONS}
    said |= {"connect_timeout_s": 1, "read_timeout_s": 1, "part_bytes": "5MiB", "parts_at_once": 2}
    return said | more


@dataclass
class Subject:
    """What is tested, and how to look at it."""

    socket_path: Path
    directory: Path
    tasks: frozenset[asyncio.Task[Any]]

    def left_behind(self) -> list[str]:
        """Tasks, spool files, open files of spools, and connections beyond what may be kept, of requests that ended."""
        tasks = asyncio.all_tasks() - self.tasks
        # A wait with a timeout is a task in Python 3.11, and those of the tiers' upkeep come and go.
        left = [str(task) for task in tasks if getattr(task.get_coro(), "__qualname__", "") != "Event.wait"]
        left += [f"file {path}" for path in (self.directory / "data/cache/spool").rglob("*") if path.is_file()]
        links = [_link(path) for path in Path("/proc/self/fd").iterdir()]
        left += [f"open {link}" for link in links if "/spool/" in link]
        return left


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except FileNotFoundError:
        return ""


@asynccontextmanager
async def direct(settings: S3Settings) -> AsyncIterator[S3Origin]:
    """The bucket, without what is between."""
    offload = Offload(2, "direct")
    origin = S3Origin(settings, offload)
    await origin.start()
    try:
        yield origin
    finally:
        await origin.close()
        await offload.close()


@asynccontextmanager
async def subject(
    directory: Path, settings: S3Settings, proxy: FaultProxy, config: Mapping[str, Any] | None = None
) -> AsyncIterator[Subject]:
    """Start one with empty caches; at the end it is closed, and nothing of it may be left."""
    directory.mkdir()
    text = {"origin": {"backend": "s3"}, "s3": s3_section(settings, proxy.url), "disk": {"min_free_bytes": 0}}
    (directory / "config.toml").write_text(toml_of(text | dict(config or {})))
    before, tasks = open_descriptors(), asyncio.all_tasks()
    flags = Flags(data_dir=directory / "data", socket=directory / "s.sock")
    loaded = load(directory / "config.toml", flags=flags, environment={"XDG_RUNTIME_DIR": str(directory)}).config
    plan = divide_descriptors(4096, loaded)
    with bind_unix(directory / "s.sock", mode=0o600, group=None) as listener:
        opened = await open_store(loaded, plan)
        door = NativeDoor(opened.store, listener.socket, limits=native_limits(loaded, plan))
        door.start()
        try:
            yield Subject(directory / "s.sock", directory, frozenset(asyncio.all_tasks()))
        finally:
            assert await door.drain(10)
            await opened.close()
    await until(lambda: asyncio.all_tasks() <= tasks)
    del opened, door
    gc.collect()
    await until(lambda: open_descriptors() <= before)  # a connection that broke is closed in the loop's next turn
    async with asyncio.timeout(10):
        while proxy.open_connections:
            await asyncio.sleep(0.01)
