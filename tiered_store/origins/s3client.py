"""The SDK's client for one bucket: how it is made, and closed.

The one place that imports aioboto3, which takes longer than all else that a daemon imports; wiring imports this module
only where an S3 origin is configured. Its own retries are off: the store decides what is tried again, within the
request's deadline and a budget. Credentials that no setting names are ``s3credentials``' business, not the SDK's.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Final

import aioboto3
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ProfileNotFound

from tiered_store.aio.offload import Offload
from tiered_store.errors import OriginUnavailable
from tiered_store.origins.s3credentials import ChainCredentials
from tiered_store.origins.s3errors import REFUSED_CREDENTIALS
from tiered_store.origins.s3lean import USER_AGENT, PiecewiseSession, keep_endpoints, parse_dates_quickly
from tiered_store.origins.s3settings import S3Settings

__all__ = ["S3Client"]

_log = logging.getLogger(__name__)

#: Idle connections are closed before the servers do it (AWS: 20 s or so), which would cost a request.
_KEEPALIVE_S: Final = 15
#: A HEAD has no text that could say what is wrong with credentials; this is what the SDK makes of its status.
_SAID_OF_A_HEAD: Final = frozenset({"400", "403"})

#: Larger bodies are worth a question: a server that refuses them may close the connection on them unread.
_ASK_ABOVE_BYTES: Final = 1024 * 1024
_THIS_MACHINE: Final = ("http://127.", "http://localhost", "http://[::1]")


class S3Client:
    """One client for the life of the origin: making one costs time and memory.

    Attributes:
        s3: the SDK's client.
        settings: with the endpoint and region that are really used, which the SDK's configuration may have said.
    """

    def __init__(self, settings: S3Settings, offload: Offload) -> None:
        self.settings = settings
        self._credentials: ChainCredentials | None = None
        if settings.access_key_id is None:
            self._credentials = ChainCredentials(settings.region, offload)
        self._stack = AsyncExitStack()
        self.s3: Any = None

    async def start(self) -> None:
        """Make the client; neither the server nor a source of credentials is waited for.

        Raises:
            OriginUnavailable: the settings contradict each other, or name a profile that does not exist.
        """
        settings = self.settings
        core = AioSession()
        parse_dates_quickly(core)
        if self._credentials is not None:
            core.register_component("credential_provider", _Provider(self._credentials))
        try:
            session = aioboto3.Session(
                aws_access_key_id=settings.access_key_id,
                aws_secret_access_key=settings.secret_access_key,
                aws_session_token=settings.session_token,
                region_name=settings.region,
                botocore_session=core,
            )
            client = session.client("s3", endpoint_url=settings.endpoint_url, config=_config(settings))
            self.s3 = await self._stack.enter_async_context(client)
            keep_endpoints(self.s3)
        except (BotoCoreError, ValueError) as error:
            hint = "; see AWS_PROFILE" if isinstance(error, ProfileNotFound) else ""
            raise OriginUnavailable(f"the S3 origin's settings do not fit: {error}{hint}", retryable=False) from error
        self._take_place()
        events = self.s3.meta.events
        events.register("before-sign.s3.DeleteObjects", _with_md5)
        events.register_last("before-call.s3", _send_at_once)
        events.register("before-call.s3.HeadBucket", _ask_here_only)
        if self._credentials is not None:
            events.register("after-call.s3", self._look_at)
            self._credentials.begin()

    async def close(self) -> None:
        """Close all connections."""
        if self._credentials is not None:
            await self._credentials.close()
        await self._stack.aclose()

    def _take_place(self) -> None:
        """Note where requests really go: the SDK has variables and profiles of its own that name an endpoint."""
        settings, meta = self.settings, self.s3.meta
        self.settings = replace(settings, endpoint_url=meta.endpoint_url, region=meta.region_name)
        if settings.endpoint_url is None and "amazonaws.com" not in meta.endpoint_url:
            is_plain = meta.endpoint_url.startswith("http://") and not meta.endpoint_url.startswith(_THIS_MACHINE)
            level = logging.WARNING if is_plain else logging.INFO
            note = "; over plain http, whoever is between can read and change objects" if is_plain else ""
            fields = {"endpoint": meta.endpoint_url}
            _log.log(level, "the SDK's configuration names the origin's endpoint%s", note, extra=fields)

    def _look_at(self, parsed: Any = None, **_: object) -> None:
        """After each answer."""
        code = parsed.get("Error", {}).get("Code") if isinstance(parsed, dict) else None
        if code is not None and (code in REFUSED_CREDENTIALS or code in _SAID_OF_A_HEAD):
            assert self._credentials is not None
            self._credentials.doubt()


class _Provider:
    """What the SDK asks for credentials when it makes a client."""

    def __init__(self, credentials: ChainCredentials) -> None:
        self._credentials = credentials

    async def load_credentials(self) -> ChainCredentials:
        return self._credentials


def _ask_here_only(params: Any, **_: object) -> None:
    """Do not follow a redirect of this request: the SDK makes it to find out where another redirect leads.

    A server that answers both with a redirect to nowhere would be asked until the interpreter's stack is full.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _send_at_once(params: Any, **_: object) -> None:
    """Do not ask first whether a small body would be taken (``Expect``): that is a round trip for each of them."""
    body = params.get("body")
    if isinstance(body, io.BytesIO) and len(body.getvalue()) <= _ASK_ABOVE_BYTES:
        params["headers"].pop("Expect", None)


def _with_md5(request: Any, **_: object) -> None:
    """Vouch for the names to be deleted as every server understands it: the newer checksums are not known to all."""
    for field in [name for name in request.headers if name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-check"))]:
        del request.headers[field]
    digest = hashlib.md5(request.body, usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()


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
        user_agent=USER_AGENT,
        http_session_cls=PiecewiseSession,
    )
