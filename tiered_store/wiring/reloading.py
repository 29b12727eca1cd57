"""What a running daemon takes of its changed configuration: tokens, rules for peers, and the certificate.

Everything else is read at the start only. The invariant: a configuration with a fault anywhere changes nothing, and
what is taken is taken together.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from tiered_store.config.faults import ConfigError
from tiered_store.config.load import Loaded
from tiered_store.config.model import Config
from tiered_store.servers.access import Gate
from tiered_store.wiring.settings import access_settings

if TYPE_CHECKING:
    import ssl

__all__ = ["Reloading", "SecretDoor"]

_log = logging.getLogger("tiered_store.daemon")

_OF_CERTIFICATE = ("http.tls_certificate", "http.tls_key")


class SecretDoor(Protocol):
    """What is needed of a door whose connections a certificate secures."""

    def renew(self, context: ssl.SSLContext) -> None:
        """Secure what connects from now on with this."""
        ...


class Reloading:
    """Reads the configuration again whenever it is asked to.

    Args:
        loaded: what the daemon was started with.
        gate: judges all callers; gets new rules.
        door: gets a new certificate; None where no door has one.
    """

    def __init__(self, loaded: Loaded, gate: Gate, door: SecretDoor | None) -> None:
        self._loaded = loaded
        self._gate = gate
        self._door = door

    async def run(self, asked: asyncio.Event) -> None:
        """Read it again each time ``asked`` is set; until cancelled."""
        while True:
            await asked.wait()
            asked.clear()  # before the files are read: who asks meanwhile has changed them again
            try:
                await self._reload()
            except ConfigError as error:
                for fault in error.faults:
                    _log.error("not reloaded, what was in force stays: %s", fault)
            except Exception:
                _log.exception("not reloaded, what was in force stays")

    async def _reload(self) -> None:
        began = self._loaded.config
        # Judging the configuration looks at paths, and one on a network may not answer.
        found, context = await asyncio.to_thread(self._read)
        self._gate.replace(access_settings(began.model_copy(update={"access": found.config.access})))
        if context is not None and self._door is not None:
            self._door.renew(context)
        for notice in found.notices:
            _log.warning("configuration: %s", notice)
        later = _that_differ(began, found.config, is_renewed=context is not None)
        if later:
            _log.warning("changed settings that wait for a restart", extra={"settings": ", ".join(later)})
        rules = len(found.config.access.tokens) + len(found.config.access.peers)
        _log.info("reloaded", extra={"rules": rules, "certificate": context is not None})

    def _read(self) -> tuple[Loaded, ssl.SSLContext | None]:
        """The configuration as it is now, and what its certificate makes."""
        found = self._loaded.again()
        http = found.config.http
        if self._door is None or http.tls_certificate is None or http.tls_key is None:
            return found, None
        from tiered_store.config.tls import server_context  # the ssl module takes long to load

        return found, server_context(http.tls_certificate, http.tls_key)


def _that_differ(old: Config, new: Config, *, is_renewed: bool) -> list[str]:
    """The settings that were changed and are not taken; their names only, some are secrets."""
    taken = _OF_CERTIFICATE if is_renewed else ()
    found: list[str] = []
    for section in sorted(type(old).model_fields):
        before, after = getattr(old, section), getattr(new, section)
        if section == "access" or before == after:
            continue
        fields = getattr(type(before), "model_fields", None)
        if fields is None:
            found.append(section)
            continue
        named = {f"{section}.{name}": name for name in fields}
        found += [setting for setting, name in named.items() if getattr(before, name) != getattr(after, name)]
    return [setting for setting in found if setting not in taken]
