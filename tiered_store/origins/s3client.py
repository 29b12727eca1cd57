"""The SDK's client for one bucket: how it is made, and closed.

The one place that imports aioboto3, which takes half a second; wiring imports this module only where an S3 origin is
configured. Its own retries are off: the store decides what is tried again, within the request's deadline and a budget.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError

from tiered_store.errors import OriginUnavailable
from tiered_store.origins.s3settings import S3Settings

__all__ = ["S3Client"]

#: Idle connections are closed before the servers do it (AWS: 20 s or so), which would cost a request.
_KEEPALIVE_S = 15


class S3Client:
    """One client for the life of the origin; making one costs a tenth of a second and megabytes."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self.s3: Any = None

    async def start(self) -> None:
        """Make the client; no server is asked.

        Raises:
            OriginUnavailable: the settings contradict each other, or name a profile that does not exist.
        """
        settings = self._settings
        try:
            session = aioboto3.Session(
                aws_access_key_id=settings.access_key_id,
                aws_secret_access_key=settings.secret_access_key,
                aws_session_token=settings.session_token,
                region_name=settings.region,
            )
            client = session.client("s3", endpoint_url=settings.endpoint_url, config=_config(settings))
            self.s3 = await self._stack.enter_async_context(client)
        except (BotoCoreError, ValueError) as error:
            raise OriginUnavailable(f"the S3 origin's settings do not fit: {error}", retryable=False) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._stack.aclose()


def _config(settings: S3Settings) -> AioConfig:
    return AioConfig(
        signature_version="s3v4",
        s3={"addressing_style": "path" if settings.path_style else "auto"},
        max_pool_connections=settings.max_connections,
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.read_timeout_s,
        retries={"total_max_attempts": 1},
        # Servers that are not AWS echo checksums of whole objects with ranges, or none: our digest verifies bytes.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        connector_args={"keepalive_timeout": _KEEPALIVE_S},
        user_agent_extra="tiered_store",
    )
