"""Trying out an origin: what each fault is said to be, and that nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing

import pytest

from tests.support.faults import FaultyOrigin
from tests.support.origins import list_all
from tiered_store.errors import OriginUnavailable, PermissionDenied, StoreError
from tiered_store.objects import ObjectInfo
from tiered_store.origins.memory import MemoryOrigin
from tiered_store.origins.probe import Probe, Step

ALL = ["put", "get", "stat", "list", "copy", "delete", "delete several"]
DENIED = PermissionDenied("forbidden")
DOWN = OriginUnavailable("no connection")


@pytest.fixture
def origin() -> FaultyOrigin:
    return FaultyOrigin(MemoryOrigin())


def probe_of(
    origin: FaultyOrigin,
    *,
    others: Mapping[str, str] | None = None,
    rehearsals: Mapping[str, Callable[[], Awaitable[None]]] | None = None,
    timeout_s: float = 30.0,
) -> Probe:
    return Probe(origin, "probe", others=others or {}, rehearsals=rehearsals or {}, timeout_s=timeout_s)


async def steps_of(probe: Probe) -> list[Step]:
    async with aclosing(probe.steps()) as steps:
        return [step async for step in steps]


def faults(steps: list[Step]) -> dict[str, str]:
    """What was tried and failed."""
    return {step.name: step.fault for step in steps if step.fault and not step.skipped}


def skipped(steps: list[Step]) -> set[str]:
    return {step.name for step in steps if step.skipped}


async def test_an_origin_without_faults(origin: FaultyOrigin) -> None:
    steps = await steps_of(probe_of(origin, others={"as COLD": "cold/probe"}))
    assert [step.name for step in steps] == [*ALL[:5], "put as COLD", *ALL[5:]]
    assert not [step for step in steps if step.fault or step.skipped]
    assert await list_all(origin.inner) == []
    assert (origin.calls["put"], origin.calls["copy"], origin.open_reads) == (2, 1, 0)


@pytest.mark.parametrize("operation", ["open", "chunk:0", "stat", "list", "copy"])
async def test_one_thing_that_is_forbidden(origin: FaultyOrigin, operation: str) -> None:
    origin.fail(operation, lambda: PermissionDenied("forbidden"))
    steps = await steps_of(probe_of(origin))
    step = "get" if operation in {"open", "chunk:0"} else operation
    expected = {step: "forbidden"}
    if operation == "stat":  # it tells, too, whether a delete has deleted
        expected = {"stat": "forbidden", "delete": "forbidden"}
    assert faults(steps) == expected
    assert await list_all(origin.inner) == []
    assert origin.open_reads == 0


async def test_put_is_forbidden(origin: FaultyOrigin) -> None:
    """What can be known without an object is tried nevertheless."""
    origin.fail("put", lambda: DENIED)
    steps = await steps_of(probe_of(origin))
    assert faults(steps) == {"put": "forbidden"}
    assert skipped(steps) == {"copy", "delete", "delete several"}
    assert (origin.calls["open"], origin.calls["stat"], origin.calls["list"]) == (1, 1, 1)
    assert origin.calls["delete"] == 0


async def test_delete_is_forbidden(origin: FaultyOrigin) -> None:
    """Then what was put is left, and the last step says so."""
    origin.fail("delete", lambda: PermissionDenied("forbidden"))
    steps = await steps_of(probe_of(origin))
    assert {*faults(steps)} == {"delete", "delete several", "clean up"}
    assert "probe may be left at the origin: forbidden" in steps[-1].fault
    assert "probe-copy may be left" in steps[-1].fault


async def test_an_origin_that_is_not_there(origin: FaultyOrigin) -> None:
    for operation in ("put", "delete"):
        origin.fail(operation, lambda: OriginUnavailable("no connection"))
    steps = await steps_of(probe_of(origin))
    assert faults(steps)["put"] == "no connection"
    assert skipped(steps) == {*ALL[1:]}
    assert sum(origin.calls.values()) == 2


async def test_a_fault_that_is_everywhere_is_said_twice_at_most(origin: FaultyOrigin) -> None:
    origin.fault = lambda operation, name: PermissionDenied("what credentials?")
    steps = await steps_of(probe_of(origin))
    assert faults(steps) == {"put": "what credentials?", "get": "what credentials?"}
    assert skipped(steps) == {*ALL[2:]}


async def test_an_origin_that_lies(origin: FaultyOrigin) -> None:
    class Lying(FaultyOrigin):
        async def stat(self, name: str) -> ObjectInfo:
            info = await super().stat(name)
            return ObjectInfo(info.key, info.size, info.etag, None, {})

        async def delete(self, names: object) -> int:
            await self.ask("delete", "")
            return 1

        async def list(self, prefix: str, **said: object):  # type: ignore[no-untyped-def, override]
            return await super().list("nothing")

    lying = Lying(MemoryOrigin())
    found = faults(await steps_of(probe_of(lying)))
    assert found == {
        "stat": "the origin does not keep content type and metadata",
        "list": "the origin does not show what was put",
        "delete": "the object is still there",
    }


async def test_no_answer_in_time(origin: FaultyOrigin) -> None:
    gate = origin.hold("list")
    steps = await steps_of(probe_of(origin, timeout_s=0.05))
    assert faults(steps) == {"list": "no answer within 0.05 s, all steps together"}
    assert skipped(steps) == {"copy", "delete", "delete several"}
    assert gate.reached.is_set()
    assert await list_all(origin.inner) == []  # removing what was put has time of its own


@pytest.mark.parametrize("act", ["cancel", "close"])
async def test_what_was_put_goes_whatever_happens(origin: FaultyOrigin, act: str) -> None:
    gate = origin.hold("list")
    steps = probe_of(origin).steps()
    for _ in range(3):
        await anext(steps)
    assert await list_all(origin.inner) == ["probe"]
    if act == "cancel":
        last = asyncio.ensure_future(anext(steps))
        await gate.reached.wait()
        last.cancel()
        with pytest.raises(asyncio.CancelledError):
            await last
    await steps.aclose()
    assert await list_all(origin.inner) == []


async def test_a_rehearsal(origin: FaultyOrigin) -> None:
    def fails(error: StoreError) -> Callable[[], Awaitable[None]]:
        async def fail() -> None:
            raise error

        return fail

    steps = await steps_of(probe_of(origin, rehearsals={"put in parts": fails(DENIED), "other": fails(DOWN)}))
    assert faults(steps) == {"put in parts": "forbidden", "other": "no connection"}
