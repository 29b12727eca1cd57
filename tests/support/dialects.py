"""The HTTP door with all dialects of build tools, over a build cache."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.build import BuildRig, build_rig
from tests.support.http import ServedHttp, door_over
from tiered_store.build.cache import BuildLimits
from tiered_store.servers.access import AccessSettings
from tiered_store.servers.http.dialects.mounts import dialect_mounts

__all__ = ["ServedDialects", "served_dialects"]

_PATIENT = BuildLimits(read_timeout_s=60.0)


@dataclass
class ServedDialects:
    """A door that speaks all dialects, and what is behind it."""

    http: ServedHttp
    build: BuildRig

    async def put(self, path: str, data: bytes, **headers: str) -> int:
        """The status of a PUT."""
        return (await self.http.ask("PUT", path, data, **headers)).status

    async def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """The status and the body of a GET; a 404 has none."""
        answer = await self.http.ask("GET", path, **headers)
        assert "Content-Encoding" not in answer.headers
        return answer.status, answer.body


@asynccontextmanager
async def served_dialects(
    limits: BuildLimits = _PATIENT, access: AccessSettings | None = None, **options: Any
) -> AsyncIterator[ServedDialects]:
    """A door on a socket of its own; ``options`` are those of ``store_rig``."""
    async with (
        build_rig(limits, **options) as build,
        door_over(build.rig, dialect_mounts(build.cache), access=access) as http,
    ):
        yield ServedDialects(http, build)
