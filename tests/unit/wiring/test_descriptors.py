from __future__ import annotations

import resource

import pytest

from tests.unit.wiring.conftest import CDN, S3, WRITE_BACK
from tiered_store.wiring.descriptors import CannotStart, divide_descriptors, raise_descriptor_limit


def test_a_generous_limit(configured) -> None:
    plan = divide_descriptors(65_536, configured())
    assert (plan.limit, plan.connections) == (65_536, 1024)
    assert plan.memory == 64_000_000 // 65_536
    assert plan.disk == 8192


def test_a_modest_limit_is_shared(configured) -> None:
    plan = divide_descriptors(4096, configured("[memory]\nmax_bytes = '512MiB'"))
    rest = 4096 - 256 - 2 * 960
    assert (plan.connections, plan.memory, plan.disk) == (960, rest // 2, rest - rest // 2)


def test_without_a_disk_tier_memory_gets_its_share(configured) -> None:
    plan = divide_descriptors(1024, configured("[disk]\nenabled = false"))
    assert (plan.connections, plan.memory, plan.disk) == (192, 384, 0)


def test_an_origin_in_memory_needs_descriptors_too(configured) -> None:
    plan = divide_descriptors(1024, configured("[origin]\nbackend = 'memory'"))
    assert (plan.connections, plan.memory, plan.disk) == (192, 96, 96)


def test_connections_to_a_bucket_are_descriptors_too(configured) -> None:
    bucket = f"{S3}max_connections = 100\n[build]\nwrite_back = false"
    plan = divide_descriptors(1024, configured(bucket))
    rest = 1024 - 256 - 100 - 2 * 167
    assert (plan.connections, plan.memory, plan.disk) == (167, rest // 2, rest - rest // 2)
    with pytest.raises(CannotStart, match="only 419 files; allow at least 420"):
        divide_descriptors(419, configured(bucket))


def test_build_tools_writes_to_a_bucket_go_through_a_journal(configured) -> None:
    with pytest.raises(CannotStart, match="allow at least 436"):
        divide_descriptors(419, configured(f"{S3}max_connections = 100"))
    with pytest.raises(CannotStart, match="allow at least 420"):
        divide_descriptors(419, configured(f"{S3}max_connections = 100\n[build]\nenabled = false"))


def test_connections_to_a_cdn_are_descriptors_too(configured) -> None:
    with pytest.raises(CannotStart, match="only 419 files; allow at least 420"):
        divide_descriptors(419, configured(f"{CDN}max_connections = 100"))


def test_uploads_from_a_journal_have_descriptors_kept_back(configured) -> None:
    text = WRITE_BACK.replace("[[", "[write_back]\nuploads_at_once = 100\n[[")
    with_journal, without = (divide_descriptors(2048, configured(each)) for each in (text, ""))
    assert without.connections - with_journal.connections == 200 // 4


@pytest.mark.parametrize("limit", [320, 400, 1024, 4096, 20_000, 2**20])
@pytest.mark.parametrize("connections", [1, 100, 100_000])
def test_no_more_is_given_than_there_is(configured, limit: int, connections: int) -> None:
    plan = divide_descriptors(limit, configured(f"[server]\nmax_connections = {connections}"))
    assert 256 + 2 * plan.connections + plan.memory + plan.disk <= limit
    assert min(plan.connections, plan.memory, plan.disk) >= 1
    assert plan.connections <= connections


def test_too_small_a_limit(configured) -> None:
    with pytest.raises(CannotStart, match="only 319 files; allow at least 320"):
        divide_descriptors(319, configured())


def test_the_limit_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [100, 5000]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.__setitem__(slice(None), list(wanted)))
    assert raise_descriptor_limit() == 5000
    assert limits == [5000, 5000]


def test_a_limit_that_the_kernel_refuses_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_descriptor_limit() == 100


def test_no_limit_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (unlimited, unlimited))
    assert raise_descriptor_limit() == 2**20


def test_the_http_door_has_connections_of_its_own(configured) -> None:
    door = "[http]\nport = 8080\nopen = true\n"
    plan = divide_descriptors(65_536, configured(door))
    assert (plan.http, plan.connections) == (512, 1024)
    small = divide_descriptors(1024, configured(door))
    assert (small.http, small.connections) == (96, 96)
    assert 2 * small.memory + small.disk == 1024 - 256 - 2 * (96 + 96)
    assert divide_descriptors(1024, configured()).http == 0


@pytest.mark.parametrize("disk", ["true", "false"])
@pytest.mark.parametrize("limit", [320, 1024, 4096, 65_536])
def test_what_the_http_door_maps_has_a_second_descriptor(configured, limit: int, disk: str) -> None:
    text = f"[http]\nport = 8080\nopen = true\n[memory]\nmax_bytes = '1GiB'\n[disk]\nenabled = {disk}"
    plan = divide_descriptors(limit, configured(text))
    assert 256 + 2 * (plan.connections + plan.http) + 2 * plan.memory + plan.disk <= limit
    assert min(plan.connections, plan.http, plan.memory) >= 1
