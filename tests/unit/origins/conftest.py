"""What the tests of the S3 origin share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tiered_store.aio.offload import Offload
from tiered_store.origins.s3 import S3Origin
from tiered_store.origins.s3settings import S3Settings


@pytest.fixture
async def opened() -> AsyncIterator[Callable[[S3Settings], Any]]:
    """Opens origins, and closes them at the end."""
    async with AsyncExitStack() as stack:

        async def opened(settings: S3Settings) -> S3Origin:
            offload = Offload(4, "origin")
            stack.push_async_callback(offload.close)
            origin = S3Origin(settings, offload)
            stack.push_async_callback(origin.close)
            await origin.start()
            return origin

        yield opened
