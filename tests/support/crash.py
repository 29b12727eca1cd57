"""A world of keys under attack: writers that note what they were told, and a judge of what a restart shows.

Writers note every change before they ask for it and again when it was acknowledged. After a crash a key may
hold the result of any change that no *later* acknowledged one has covered; a change that nobody
acknowledged may have happened or not. "Later" is what one clock of this process says: a change comes after
another only if it began after the other had ended, so keys that several writers share are judged rightly too.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from tiered_store import AsyncClient, Client, DaemonUnavailable, NotFound, ObjectInfo

__all__ = ["ABSENT", "POLICIES", "PREFIXES", "Attack", "Ledger", "State", "judge", "observe", "state_of"]

#: One prefix per kind of policy; artifacts come on top.
PREFIXES = ("sessions/", "cache/", "revalidated/", "stale/")
POLICIES: list[dict[str, object]] = [
    {"prefix": "cache/", "immutable": True},
    {"prefix": "revalidated/", "ttl_s": 0},
    {"prefix": "stale/", "ttl_s": 0, "stale_while_revalidate_s": 3600},
]
#: Round every threshold: rows and files of the disk tier, inline and descriptor replies.
_SIZES = (0, 1, 700, 4096, 32_000, 65_535, 65_536, 65_537, 200_000, 1_100_000)
_SIZE_WEIGHTS = (2, 2, 30, 15, 8, 3, 3, 3, 5, 3)


@dataclass(frozen=True, slots=True)
class State:
    """What a key holds."""

    digest: str
    size: int
    content_type: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()


ABSENT: State | None = None


def state_of(data: bytes, info: ObjectInfo | None = None) -> State:
    """The state that these bytes, with that information, are."""
    digest = hashlib.sha256(data).hexdigest()
    if info is None:
        return State(digest, len(data))
    assert info.size == len(data)
    return State(digest, len(data), info.content_type, tuple(sorted(info.metadata.items())))


@dataclass(slots=True)
class _Change:
    """One change of one key: from when until when, and what it leaves."""

    begun: int
    state: State | None
    ended: int | None = None


class Ledger:
    """What was asked of every key, and what was acknowledged. Safe to use from several threads."""

    def __init__(self) -> None:
        self._clock = itertools.count()
        self._changes: dict[str, list[_Change]] = {}

    def begin(self, key: str, state: State | None) -> Callable[[], None]:
        """A change is about to be asked for; call what is returned once it was acknowledged."""
        change = _Change(next(self._clock), state)
        self._changes.setdefault(key, [_Change(-1, ABSENT, -1)]).append(change)

        def acknowledged() -> None:
            change.ended = next(self._clock)

        return acknowledged

    def possible(self, key: str) -> set[State | None]:
        """What the key may hold now, if nothing is under way."""
        changes = self._changes.get(key, [])
        acknowledged = [change for change in changes if change.ended is not None]
        return {
            change.state
            for change in changes
            if change.ended is None or not any(later.begun > change.ended for later in acknowledged)
        } or {ABSENT}

    def begun(self, key: str) -> set[State | None]:
        """Everything that was ever asked for since the key was last seen at rest."""
        return {change.state for change in self._changes.get(key, [])}

    def settle(self, key: str, state: State | None) -> None:
        """The key was seen in this state while nothing was under way: from here on nothing else is possible."""
        self._changes[key] = [_Change(-1, state, -1)]

    def known(self) -> list[str]:
        """All keys that were ever written."""
        return sorted(self._changes)


@dataclass
class Attack:
    """Several writers at one daemon, until it is gone.

    Args:
        socket_path: the daemon's.
        ledger: where changes are noted.
        seed: of everything that is chosen here (how the writers interleave is the machine's choice).
        writers: threads with a client each; one more runs an asyncio client with three tasks.
    """

    socket_path: str
    ledger: Ledger
    seed: str
    writers: int = 3
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._acknowledged = 0
        self._moved = threading.Condition()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(self.writers)]
        self._threads.append(threading.Thread(target=lambda: asyncio.run(self._write_async())))

    def start(self) -> None:
        """Begin to write."""
        for thread in self._threads:
            thread.start()

    def wait_for(self, acknowledged: int, timeout_s: float) -> None:
        """Return after so many acknowledged operations, or after that time."""
        with self._moved:
            self._moved.wait_for(lambda: self._acknowledged >= acknowledged, timeout_s)

    def join(self) -> None:
        """Wait for the writers, who end when the daemon is gone."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a writer hangs although the daemon is gone"
        assert not self.faults, self.faults

    # -- writers -------------------------------------------------------------------------------------

    def _write(self, number: int) -> None:
        try:
            with Client(self.socket_path, reconnect_s=0) as client, suppress(DaemonUnavailable):
                writer = _Writer(client, self.ledger, random.Random(f"{self.seed}/{number}"), f"w{number}")
                while True:
                    writer.act()
                    self._count()
        except Exception as error:
            self.faults.append(f"writer {number}: {error!r}")

    async def _write_async(self) -> None:
        async with AsyncClient(self.socket_path, reconnect_s=0) as client:
            results = await asyncio.gather(*(self._task(client, number) for number in range(3)), return_exceptions=True)
        self.faults += [f"task: {error!r}" for error in results if not isinstance(error, DaemonUnavailable)]

    async def _task(self, client: AsyncClient, number: int) -> None:
        rng = random.Random(f"{self.seed}/task{number}")
        while True:
            key = f"{rng.choice(PREFIXES)}shared/{rng.randrange(2)}" if rng.random() < 0.3 else _own(rng, f"t{number}")
            if rng.random() < 0.2:
                acknowledged = self.ledger.begin(key, ABSENT)
                await client.delete(key)
            else:
                data = _bytes(rng)
                content_type, metadata = _headers(rng)
                acknowledged = self.ledger.begin(key, _state(data, content_type, metadata))
                await client.put(key, data, content_type=content_type, metadata=metadata)
            acknowledged()
            self._count()

    def _count(self) -> None:
        with self._moved:
            self._acknowledged += 1
            self._moved.notify_all()


class _Writer:
    """One thread's operations on keys of its own, and on some that it shares."""

    def __init__(self, client: Client, ledger: Ledger, rng: random.Random, name: str) -> None:
        self._client = client
        self._ledger = ledger
        self._rng = rng
        self._name = name
        self._artifacts: list[str] = []
        self._actions = (
            [self._put] * 9
            + [self._put_artifact] * 2
            + [self._put_many] * 2
            + [self._delete] * 3
            + [self._copy] * 3
            + [self._read] * 4
            + [self._delete_artifact, self._delete_prefix, self._put_shared]
        )

    def act(self) -> None:
        """Do one thing."""
        self._rng.choice(self._actions)()

    def _put(self) -> None:
        self._put_at(_own(self._rng, self._name))

    def _put_shared(self) -> None:
        self._put_at(f"{self._rng.choice(PREFIXES)}shared/{self._rng.randrange(2)}")

    def _put_at(self, key: str) -> None:
        data = _bytes(self._rng)
        content_type, metadata = _headers(self._rng)
        acknowledged = self._ledger.begin(key, _state(data, content_type, metadata))
        self._client.put(key, data, content_type=content_type, metadata=metadata)
        acknowledged()

    def _put_artifact(self) -> None:
        data = self._name.encode() + _bytes(self._rng)  # nobody else's artifact
        key = f"sha256:{hashlib.sha256(data).hexdigest()}"
        acknowledged = self._ledger.begin(key, state_of(data))
        assert self._client.put_artifact(data) == key
        acknowledged()
        self._artifacts.append(key)

    def _delete_artifact(self) -> None:
        if self._artifacts:
            self._delete_at(self._artifacts.pop(self._rng.randrange(len(self._artifacts))))

    def _put_many(self) -> None:
        items = {f"{self._rng.choice(PREFIXES)}{self._name}/m{n}": self._rng.randbytes(600) for n in range(12)}
        acknowledged = [self._ledger.begin(key, state_of(data)) for key, data in items.items()]
        self._client.put_many(items)
        for acknowledge in acknowledged:
            acknowledge()

    def _delete(self) -> None:
        self._delete_at(_own(self._rng, self._name))

    def _delete_at(self, key: str) -> None:
        acknowledged = self._ledger.begin(key, ABSENT)
        self._client.delete(key)
        acknowledged()

    def _delete_prefix(self) -> None:
        prefix = f"{self._rng.choice(PREFIXES)}{self._name}/"
        keys = [key for key in self._ledger.known() if key.startswith(prefix)]
        acknowledged = [self._ledger.begin(key, ABSENT) for key in keys]
        self._client.delete_prefix(prefix)
        for acknowledge in acknowledged:
            acknowledge()

    def _copy(self) -> None:
        source, target = _own(self._rng, self._name), _own(self._rng, self._name)
        (state,) = self._ledger.possible(source)
        if source == target or state is ABSENT:
            return
        acknowledged = self._ledger.begin(target, state)
        self._client.copy(source, target)
        acknowledged()

    def _read(self) -> None:
        """Own keys are known exactly; reading them also brings them into the tiers."""
        key = _own(self._rng, self._name)
        (expected,) = self._ledger.possible(key)
        found = observe(self._client, key)
        assert found == expected, f"{key} of a living daemon: {found} instead of {expected}"


def observe(client: Client, key: str) -> State | None:
    """What a reader gets."""
    pieces: list[bytes] = []
    try:
        info = client.get_into(key, pieces.append)
    except NotFound:
        return ABSENT
    return state_of(b"".join(pieces), info)


def judge(client: Client, ledger: Ledger, keys: Iterable[str]) -> None:
    """Read every key twice, compare with what is possible, and with the origin's listing; settle the ledger."""
    seen: dict[str, State | None] = {}
    for key in keys:
        possible = ledger.possible(key)
        first, second = observe(client, key), observe(client, key)
        assert first in possible, f"{key}: {first} is none of {possible}"
        assert second == first, f"{key}: the second read gives {second} after {first}"
        seen[key] = first
        ledger.settle(key, first)
    present = {key: state for key, state in seen.items() if state is not None}
    assert {info.key: info.size for info in client.list()} == {key: state.size for key, state in present.items()}
    assert client.exists_many(seen) == {key: state is not None for key, state in seen.items()}
    _judge_batch(client, present)


def _judge_batch(client: Client, present: Mapping[str, State]) -> None:
    found = client.get_many(present)
    assert {key: state_of(data).digest for key, data in found.items()} == {
        key: state.digest for key, state in present.items()
    }


def _own(rng: random.Random, name: str) -> str:
    return f"{rng.choice(PREFIXES)}{name}/{rng.randrange(4)}"


def _bytes(rng: random.Random) -> bytes:
    (size,) = rng.choices(_SIZES, _SIZE_WEIGHTS)
    return rng.randbytes(size)


def _headers(rng: random.Random) -> tuple[str | None, dict[str, str]]:
    if rng.random() < 0.5:
        return None, {}
    return rng.choice([None, "", "text/plain", "image/png"]), {"n": str(rng.random()), "größe": "é" * rng.randrange(40)}


def _state(data: bytes, content_type: str | None, metadata: Mapping[str, str]) -> State:
    return State(hashlib.sha256(data).hexdigest(), len(data), content_type, tuple(sorted(metadata.items())))
