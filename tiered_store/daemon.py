"""The process: its event loop, its signals, and the order in which things start and stop.

Knows neither the protocol nor how a store is built. Starting is: claim the socket, open the store, accept.
Stopping is the reverse: accept no more, finish what is under way within a limit, close the store,
release the socket. The invariant: whatever ends the process, no acknowledged put is lost, because the
store never acknowledges what only memory holds. That is why a second signal may simply end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import uvloop

from tiered_store import __version__, logs
from tiered_store.aio.heap import keep_freed_memory
from tiered_store.config.checks import opens_journal
from tiered_store.config.load import Loaded
from tiered_store.config.model import Config
from tiered_store.config.providers import said_origin
from tiered_store.config.sizes import format_size
from tiered_store.errors import StoreError
from tiered_store.servers.access import Gate
from tiered_store.servers.native import NativeDoor
from tiered_store.servers.serial import SerialDoor
from tiered_store.servers.sockets import ListenError, bind_tcp, bind_unix
from tiered_store.wiring.descriptors import CannotStart, DescriptorPlan, divide_descriptors, raise_descriptor_limit
from tiered_store.wiring.doors import tool_doors
from tiered_store.wiring.opening import OpenStore, open_store
from tiered_store.wiring.reloading import Reloading, SecretDoor
from tiered_store.wiring.settings import access_settings, native_limits

__all__ = ["notify_systemd", "resident_bytes", "serve"]

_log = logging.getLogger("tiered_store.daemon")

#: What closing the store may take beyond the limit that its own writes have.
_CLOSE_MARGIN_S = 5.0
_SWITCH_INTERVAL_S = 0.0005
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def serve(loaded: Loaded) -> int:
    """Run the daemon until a signal ends it.

    Returns:
        the exit code: 0 after a stop, 1 if it could not start or the store did not close in time.
    """
    keep_freed_memory()
    logs.set_up(loaded.config.log.level, loaded.config.log.format)
    for notice in loaded.notices:
        _log.warning("configuration: %s", notice)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(loaded))


def resident_bytes() -> int:
    """Memory of this process that is in RAM now (VmRSS)."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES


def notify_systemd(state: str) -> None:
    """Tell systemd (``Type=notify``) how far the start or stop is; nothing happens without systemd."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    # A supervisor that does not listen must not stop the daemon.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(state.encode(), address)


class Listeners:
    """The sockets that clients connect to, until they are closed.

    Attributes:
        native: of the native protocol; set by :meth:`listen`.
        http: of the HTTP door, if there is one.
        tools: of the doors for build tools that have sockets of their own, by the name of their section.
    """

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self.native: socket.socket
        self.http: list[socket.socket] = []
        self.tools: dict[str, socket.socket] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def listen(self, config: Config) -> None:
        """Claim and open all of them. Raises ListenError; those that are open then are closed with the rest."""
        server, http = config.server, config.http
        self.native = self._unix(server.socket, server.mode, server.group)
        if http.socket is not None:
            self.http.append(self._unix(http.socket, http.mode, http.group))
        if http.port:
            self.http.append(self._open.enter_context(bind_tcp(http.host, http.port)))
        for name, tool in (("resp", config.resp), ("crsh", config.crsh)):
            if tool.socket is not None:
                self.tools[name] = self._unix(tool.socket, tool.mode, tool.group)

    def _unix(self, path: Path, mode: int, group: str) -> socket.socket:
        return self._open.enter_context(bind_unix(path, mode=mode, group=group)).socket

    def close(self) -> None:
        """Stop listening; more than once is fine."""
        self._open.close()


class _Door(Protocol):
    """What is common to all ways in."""

    @property
    def connections(self) -> int: ...

    async def drain(self, timeout_s: float) -> bool: ...


class _Stop:
    """The signals. The first SIGTERM or SIGINT asks for an orderly stop, a second one ends the process.

    Attributes:
        listeners: what a process that ends at once must close.
        reload: set by SIGHUP.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asked = asyncio.Event()
        self._reason = ""
        self.listeners = Listeners()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number.name)
        self.reload = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)

    async def wait(self) -> str:
        """Return what asked for the stop, once something did: the name of a signal, as a rule."""
        await self._asked.wait()
        return self._reason

    def ask(self, reason: str) -> None:
        """Ask for an orderly stop, where nobody has yet."""
        if not self._asked.is_set():
            self._reason = reason
            self._asked.set()

    def _signalled(self, name: str) -> None:
        if self._asked.is_set():
            _log.warning("stopping at once", extra={"signal": name})
            leave(self.listeners)
        self.ask(name)


def leave(listeners: Listeners) -> None:
    """End the process now, without waiting for threads that a slow disk may hold."""
    listeners.close()
    logging.shutdown()
    os._exit(1)


async def _run(loaded: Loaded) -> int:
    began = time.monotonic()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_loop_error)
    stop = _Stop(loop)
    with stop.listeners as listeners:
        try:
            plan = divide_descriptors(raise_descriptor_limit(), loaded.config)
            listeners.listen(loaded.config)
            opened = await open_store(loaded.config, plan)
        except (CannotStart, ListenError, StoreError, OSError) as error:
            _log.error("cannot start: %s", error)
            return 1
        closed = clean = False
        code = 0
        try:
            clean = await _serve(loaded, plan, opened, stop, began)
        except CannotStart as error:
            _log.error("cannot start: %s", error)
            code = 1
        finally:
            closed = await _close(opened, loaded.config.server.drain_timeout_s + _CLOSE_MARGIN_S)
    _log.info("stopped", extra={"clean": clean and closed, "uptime_s": round(time.monotonic() - began, 3)})
    if not closed:
        leave(stop.listeners)
    return code  # 0 also when requests were cut off: that is what the limit is for, and the log says so


async def _serve(loaded: Loaded, plan: DescriptorPlan, opened: OpenStore, stop: _Stop, began: float) -> bool:
    """Accept clients until a signal comes; whether all of them could be finished in time."""
    config = loaded.config
    counted: dict[str, Callable[[], dict[str, object]]] = {}
    gate = Gate(access_settings(config))
    tools = tool_doors(config, opened.build, gate, stop.listeners.tools, stop=partial(stop.ask, "client"))
    door = NativeDoor(
        opened.store,
        stop.listeners.native,
        limits=native_limits(config, plan),
        allow_uids=frozenset(config.server.allow_uids) or None,
        allow_gids=frozenset(config.server.allow_gids) or None,
        extra_stats=lambda: {
            **_build_stats(opened),
            **_door_stats(tools),
            **{name: of() for name, of in counted.items()},
            **_process_stats(),
        },
        name=f"tiered_store {__version__}",
    )
    doors: list[_Door] = [door, *tools]
    secret: SecretDoor | None = None
    if stop.listeners.http:
        from tiered_store.wiring.http import start_http  # takes long to import, and most daemons have none

        http = await start_http(config, plan, opened, gate, stop.listeners.http, door.statistics)
        doors.append(http)
        secret = http if config.http.port and config.http.tls_key is not None else None
        counted["http"] = http.counters
    # What is there now stays as long as the process: the collector need not look at it again.
    gc.freeze()
    # The loop shares the interpreter with the disk tier's threads; by default it would wait up to 5 ms for its turn.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    door.start()
    for tool in tools:
        tool.start()
    _log.info("started", extra={"version": __version__, **_described(loaded, plan, time.monotonic() - began)})
    reloading = asyncio.create_task(Reloading(loaded, gate, secret).run(stop.reload))
    notify_systemd("READY=1")
    reason = await stop.wait()
    reloading.cancel()
    _log.info("stopping", extra={"signal": reason, "connections": sum(open_.connections for open_ in doors)})
    notify_systemd("STOPPING=1")
    clean = all(await asyncio.gather(*(open_.drain(config.server.drain_timeout_s) for open_ in doors)))
    if not clean:
        _log.warning("requests were cut off", extra={"drain_timeout_s": config.server.drain_timeout_s})
    return clean


def _build_stats(opened: OpenStore) -> dict[str, object]:
    return {} if opened.build is None else {"build": opened.build.counters()}


def _door_stats(doors: Sequence[SerialDoor]) -> dict[str, object]:
    return {"doors": {door.name: door.statistics() for door in doors}} if doors else {}


def _process_stats() -> dict[str, object]:
    return {"rss_bytes": resident_bytes(), "pid": os.getpid(), "version": __version__}


async def _close(opened: OpenStore, limit_s: float) -> bool:
    try:
        async with asyncio.timeout(limit_s):
            await opened.close()
    except TimeoutError:
        _log.error("the store did not close in time", extra={"limit_s": limit_s})
        return False
    return True


def _described(loaded: Loaded, plan: DescriptorPlan, took_s: float) -> dict[str, object]:
    """What was chosen, and which of it somebody asked for: the fields of the line about the start."""
    config = loaded.config
    disk = f"{config.disk.path} ({format_size(config.disk.max_bytes)})" if config.disk.enabled else "off"
    return {
        "pid": os.getpid(),
        "socket": str(config.server.socket),
        "mode": f"{config.server.mode:04o}",
        "resp": str(config.resp.socket or "off"),
        "crsh": str(config.crsh.socket or "off"),
        "http": _said_http(config),
        "origin": said_origin(config),
        "disk": disk,
        "cdn": config.cdn.base_url or "off",
        "journal": str(config.write_back.path) if opens_journal(config) else "off",
        "memory": format_size(config.memory.max_bytes),
        "files": f"{plan.limit} ({plan.connections} connections, {plan.memory} memory, {plan.disk} disk)",
        "settings": {setting: source for setting, source in loaded.sources.items() if source != "default"},
        "took_s": round(took_s, 3),
    }


def _said_http(config: Config) -> str:
    """Where the HTTP door listens."""
    section = config.http
    places = [str(section.socket)] if section.socket is not None else []
    if section.port:
        host = f"[{section.host}]" if ":" in section.host else section.host
        places.append(f"{host}:{section.port}")
    return ", ".join(places) or "off"


def _log_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Errors that no task was there to take: a line, not silence, and the daemon goes on."""
    _log.error("unhandled error: %s", context.get("message"), exc_info=context.get("exception"))
