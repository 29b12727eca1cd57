"""The configured origin alone, for commands that speak to it themselves, without a daemon."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from tiered_store.config.model import Config
from tiered_store.key import RESERVED_PREFIX
from tiered_store.origins.base import Origin
from tiered_store.origins.probe import Probe
from tiered_store.stats import OriginStats
from tiered_store.wiring.parts import new_pool, start_bucket, start_origin

if TYPE_CHECKING:
    from tiered_store.origins.s3 import S3Origin

__all__ = ["open_bucket", "open_probe"]


@contextlib.asynccontextmanager
async def open_bucket(config: Config) -> AsyncIterator[S3Origin]:
    """The bucket of a configuration with an S3 origin, alone, for as long as the context lasts."""
    async with contextlib.AsyncExitStack() as undo:
        yield await start_bucket(config.s3, undo, new_pool(undo, "origin", 1))


@contextlib.asynccontextmanager
async def open_probe(config: Config, timeout_s: float) -> AsyncIterator[Probe]:
    """What tries out the configured origin; names are taken that no key can have, where the origin has such names.

    Raises:
        PermissionDenied, OriginUnavailable: the origin cannot even be started.
    """
    mark = secrets.token_hex(16)
    name, others, rehearsals = f"tiered-store-probe-{mark}", {}, {}
    async with contextlib.AsyncExitStack() as undo:
        if config.origin.backend == "s3":
            origin: Origin = (bucket := await start_bucket(config.s3, undo, new_pool(undo, "origin", 1)))
            name = f"{RESERVED_PREFIX}/probe-{mark}"
            others = {
                f"as {storage_class}": f"{prefix.rstrip('/')}/{name}".removeprefix("/")
                for prefix, storage_class in config.s3.storage_classes.items()
            }
            rehearsals = {"put in parts": lambda: bucket.rehearse_parts(name)}
        else:
            origin = await start_origin(config, OriginStats(), undo, [])
        yield Probe(origin, name, others=others, rehearsals=rehearsals, timeout_s=timeout_s)
