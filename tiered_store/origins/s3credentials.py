"""Credentials that no setting names: found where AWS's tools look for them, and looked for again while they are needed.

The SDK looks once, when its client is made, and lets every request fail in the last minutes before credentials
expire. A daemon may start before its role can be had, and has to outlive a source that is down for a while. So what is
here stands in for the SDK's own credentials: it walks the SDK's chain (environment, profile, web identity, container,
machine) whenever there are none that hold, in one thread for all requests, which wait, and no more often than
``_AGAIN_S``. Before they expire, and as long as they hold, others are looked for in the background.

Invariants: at most one walk is under way, and none takes longer than ``_WALK_TIMEOUT_S``. No message holds a secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiobotocore.credentials import create_credential_resolver
from aiobotocore.session import AioSession

from tiered_store.aio.offload import Offload
from tiered_store.errors import OriginUnavailable, PermissionDenied, StoreError

__all__ = ["ChainCredentials"]

_log = logging.getLogger(__name__)

#: Between two walks while there are no credentials that hold, or the server refuses the ones at hand.
_AGAIN_S: Final = 10.0
#: Between two walks while there are: sources give the same ones until shortly before they expire.
_RENEW_AGAIN_S: Final = 60.0
#: So long before they expire others are looked for; the SDK's own figure.
_RENEW_BEFORE_S: Final = 15 * 60
#: With less than this left a request may reach the server too late.
_MARGIN_S: Final = 30
#: The SDK gives a container's endpoint three tries of two seconds and a machine's one of one second.
_WALK_TIMEOUT_S: Final = 15.0
_SAID_MAX: Final = 300

#: The places of the chain, by the SDK's names for them; the others that it knows are of the past.
_PLACES: Final[Mapping[str, str]] = {
    "env": "the environment (AWS_ACCESS_KEY_ID)",
    "assume-role": "the profile's role",
    "assume-role-with-web-identity": "the web identity (AWS_WEB_IDENTITY_TOKEN_FILE)",
    "sso": "the profile's single sign-on",
    "shared-credentials-file": "the credentials file",
    "custom-process": "the profile's credential_process",
    "config-file": "the configuration file",
    "container-role": "the container (AWS_CONTAINER_CREDENTIALS_FULL_URI or _RELATIVE_URI)",
    "iam-role": "the machine's role",
}


@dataclass(frozen=True, slots=True)
class _Found:
    """Credentials, and the SDK's object that knows when they expire."""

    place: str
    frozen: Any
    source: Any

    def holds_for(self, seconds: float) -> bool:
        expires = getattr(self.source, "refresh_needed", None)
        return expires is None or not expires(seconds)


class _Walk:
    """One walk through the chain. It blocks: the SDK reads files and parses models on its way, so it has a thread."""

    def __init__(self, region: str | None) -> None:
        self._region = region
        self._stopped = False
        self._task: asyncio.Task[_Found] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> _Found:
        """Walk. Raises PermissionDenied: nothing was found. OriginUnavailable: a place that is configured fails."""
        return asyncio.run(self._bounded())

    def stop(self) -> None:
        """Have :meth:`run` end soon; from any thread."""
        self._stopped = True
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._task.cancel)

    async def _bounded(self) -> _Found:
        self._task, self._loop = asyncio.ensure_future(self._find()), asyncio.get_running_loop()
        if self._stopped:
            self._task.cancel()
        done, _ = await asyncio.wait([self._task], timeout=_WALK_TIMEOUT_S)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._task.cancelled():
            raise OriginUnavailable(f"nobody gave credentials for the origin within {_WALK_TIMEOUT_S:.0f} s")
        return self._task.result()

    async def _find(self) -> _Found:
        place = "the SDK's configuration"
        try:
            session = AioSession()  # a new one: files may have changed
            profile = session.get_config_variable("profile") or "default"
            for provider in create_credential_resolver(session, region_name=self._region).providers:
                place = _PLACES.get(provider.METHOD, provider.METHOD)
                source = await provider.load()
                if source is not None:
                    # The SDK would ask for others at once where these hold for a few minutes only.
                    source._advisory_refresh_timeout = source._mandatory_refresh_timeout = 0  # noqa: SLF001 - its knobs
                    return _Found(place, await source.get_frozen_credentials(), source)
        except Exception as error:  # whatever a place of the chain makes of its own faults
            said = " ".join((str(error) or type(error).__name__).split())[:_SAID_MAX]
            raise OriginUnavailable(f"no credentials for the origin: {place} fails: {said}") from error
        raise PermissionDenied(_nothing_found(str(profile)))


def _nothing_found(profile: str) -> str:
    off = os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
    machine = "the machine's role (not asked: AWS_EC2_METADATA_DISABLED is set)" if off else "the machine's role"
    return (
        "no credentials for the origin: set s3.access_key_id and s3.secret_access_key, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or give this machine a profile or a role (looked in vain in the environment, for the "
        f"profile {profile!r}, for a container's role, and for {machine})"
    )


class ChainCredentials:
    """Stands where the SDK expects credentials; each request that is signed asks it.

    Args:
        region: where roles are asked for; None for the SDK's configuration.
        offload: where the chain is walked.
        clock: monotonic seconds.
    """

    method = "tiered-store"  # the SDK reads it

    def __init__(self, region: str | None, offload: Offload, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._region = region
        self._offload = offload
        self._clock = clock
        self._found: _Found | None = None
        self._fault: StoreError | None = None
        self._doubted = False
        self._next_walk = float("-inf")
        self._walk: _Walk | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def begin(self) -> None:
        """Look for credentials in the background; nobody waits."""
        if self._task is None and not self._closed and self._clock() >= self._next_walk:
            self._walk = _Walk(self._region)
            self._task = asyncio.create_task(self._look(self._walk), name="looking for credentials")

    def doubt(self) -> None:
        """The server does not take them: others are looked for before the next request."""
        self._doubted = True
        self._next_walk = min(self._next_walk, self._clock() + _AGAIN_S)

    async def get_frozen_credentials(self) -> Any:
        """Credentials that hold.

        Raises:
            PermissionDenied: nobody has any for us. OriginUnavailable: who had, or should have, does not give any now.
        """
        found = self._found
        if found is None or self._doubted or not found.holds_for(_MARGIN_S):
            self.begin()
            if self._task is not None:
                await asyncio.wait([self._task])
        elif not found.holds_for(_RENEW_BEFORE_S):
            self.begin()
        if self._found is not None and self._found.holds_for(0):
            return self._found.frozen
        raise self._refusal()

    def get_deferred_property(self, _name: str) -> Callable[[], Awaitable[None]]:
        """What the SDK asks for when it makes a client: it is nothing but the account's number."""
        return self.get_account_id

    async def get_account_id(self) -> None:
        """The SDK wants it where an endpoint has it in its name, which none of S3 has."""

    async def close(self) -> None:
        """Give up a walk that is under way."""
        self._closed = True
        if self._walk is not None:
            self._walk.stop()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _look(self, walk: _Walk) -> None:
        before = self._found
        try:
            self._found = await self._offload.run(walk.run)
            self._doubted, self._fault, wait_s = False, None, _RENEW_AGAIN_S
            if before is None or before.place != self._found.place:
                _log.info("credentials for the origin were found", extra={"place": self._found.place})
        except StoreError as error:
            wait_s = _AGAIN_S if before is None or not before.holds_for(_MARGIN_S) else _RENEW_AGAIN_S
            if self._fault is None or self._fault.message != error.message:
                _log.warning("no new credentials for the origin", extra={"reason": error.message})
            self._fault = error
        finally:
            self._task = self._walk = None
        if self._found is not None and not self._found.holds_for(_MARGIN_S):
            wait_s = _AGAIN_S
        self._next_walk = self._clock() + wait_s

    def _refusal(self) -> StoreError:
        """The fault of the last walk, as an error of its own for each request."""
        fault = self._fault
        if self._found is not None:
            reason = "" if fault is None else f": {fault.message}"
            return OriginUnavailable(f"the credentials for the origin have expired, and there are no others{reason}")
        if isinstance(fault, PermissionDenied):
            return PermissionDenied(fault.message)
        return OriginUnavailable("no credentials for the origin" if fault is None else fault.message)
