"""Who asks over HTTP, and the answers to those who may not."""

from __future__ import annotations

import base64
import json
import os
import socket
from typing import Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from tests.support.http import served_http
from tiered_store.build.entry import Place
from tiered_store.servers.access import AccessSettings, Caller, Gate, PeerRule, Right, Rule, TokenRule
from tiered_store.servers.credentials import hash_of
from tiered_store.servers.http.api import api_mounts
from tiered_store.servers.http.exchange import Mount
from tiered_store.servers.http.objects import handle_object
from tiered_store.servers.http.problems import Refusal
from tiered_store.servers.http.rights import Sender, caller_of, granted_place, refusal_of_right, sender_of

LOCAL = Sender(is_loopback=True)
PAGES = frozenset({"https://ours.example"})


class Transport:
    """A transport's answers."""

    def __init__(self, **extra: Any) -> None:
        self.extra = extra

    def get_extra_info(self, name: str) -> Any:
        return self.extra.get(name)


def headers(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


@pytest.mark.parametrize(
    ("address", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("", False),
    ],
)
def test_whose_address_is_this_machines(address: str, is_loopback: bool) -> None:
    with socket.socket(socket.AF_INET) as sock:
        transport: Any = Transport(socket=sock, peername=(address, 1))
        assert sender_of(transport) == Sender(is_loopback=is_loopback)


def test_the_peer_of_a_unix_socket_is_who_the_kernel_says() -> None:
    one, other = socket.socketpair()
    with one, other:
        transport: Any = Transport(socket=one)
        sender = sender_of(transport)
    assert sender.peer is not None
    assert (sender.peer.uid, sender.peer.pid) == (os.getuid(), os.getpid())
    assert not sender.is_loopback


@pytest.mark.parametrize("extra", [{}, {"peername": None}, {"peername": ()}])
def test_a_connection_that_has_gone_is_nobodys(extra: dict[str, Any]) -> None:
    with socket.socket(socket.AF_INET) as sock:
        for transport in (Transport(**extra), Transport(socket=sock, **extra)):
            assert sender_of(transport) == Sender()  # type: ignore[arg-type]


def test_a_token_is_taken_from_the_one_header() -> None:
    assert caller_of(Sender(), headers(("Authorization", "Bearer abc")), ()) == Caller("abc")
    assert caller_of(Sender(), headers(("Authorization", "Bearer a"), ("authorization", "Bearer b")), ()) == Caller()
    assert caller_of(Sender(), headers(), ()) == Caller()


@pytest.mark.parametrize(
    ("said", "is_local"),
    [
        ([("Host", "127.0.0.1:80")], True),
        ([("Host", "localhost")], True),
        ([("Host", "rebound.example")], False),
        ([], False),
        ([("Host", "localhost"), ("Origin", "https://ours.example")], True),
        ([("Host", "localhost"), ("Origin", "https://evil.example")], False),
        ([("Host", "localhost"), ("Origin", "null")], False),
        ([("Host", "localhost"), ("Origin", "")], False),
        ([("Host", "localhost"), ("Sec-Fetch-Site", "none")], True),
        ([("Host", "localhost"), ("Sec-Fetch-Site", "cross-site")], False),
        ([("Host", "localhost"), ("Sec-Fetch-Site", "same-origin")], False),
        ([("Host", "localhost"), ("Origin", "https://ours.example"), ("Sec-Fetch-Site", "cross-site")], True),
    ],
)
def test_pages_are_no_programs_of_this_machine(said: list[tuple[str, str]], is_local: bool) -> None:
    assert caller_of(LOCAL, headers(*said), PAGES).is_local is is_local
    assert not caller_of(Sender(), headers(*said), PAGES).is_local


def test_who_is_not_known_is_asked_for_a_token_and_who_is_known_is_not() -> None:
    gate = Gate(AccessSettings(tokens=[TokenRule(Rule("ci", "read"), hash_of("t"))]))
    unknown, known = refusal_of_right(gate.of(Caller())), refusal_of_right(gate.of(Caller("t")))
    assert (unknown.status, unknown.headers) == (401, {"WWW-Authenticate": 'Bearer realm="tiered_store"'})
    assert (known.status, known.code, known.headers) == (403, "PermissionDenied", {})


@pytest.mark.parametrize(
    ("instance", "right", "status"),
    [("repo", Right.READ, 404), ("../x", Right.READ, 404), ("repo", Right.WRITE, 403), ("../x", Right.WRITE, 400)],
)
def test_build_tools_are_refused_in_words_that_they_understand(instance: str, right: Right, status: int) -> None:
    with pytest.raises(Refusal) as caught:
        granted_place(Gate(AccessSettings()).of(Caller()), "nx", instance, right)
    assert caught.value.status == status
    assert "WWW-Authenticate" not in caught.value.headers


def test_a_refused_write_says_what_can_allow_it() -> None:
    reader = TokenRule(Rule("dev", "read"), hash_of("t"))
    for caller, remedy in ((Caller(is_local=True), "build.instances"), (Caller("t"), "access")):
        with pytest.raises(Refusal, match=rf"may not write to the instance 'repo'.*{remedy}"):
            granted_place(Gate(AccessSettings(tokens=[reader], is_open=True)).of(caller), "nx", "repo", Right.WRITE)


def test_the_place_of_a_build_cache() -> None:
    rule = TokenRule(Rule("pr", "write", quarantine=True), hash_of("t"))
    grant = Gate(AccessSettings(tokens=[rule])).of(Caller("t"))
    assert granted_place(grant, "nx", "repo", Right.WRITE) == Place("nx", "repo", "pr")


async def test_an_object_that_is_there_and_one_that_is_not_are_refused_alike() -> None:
    objects = Mount("v1/objects", handle_object)
    settings = AccessSettings(
        tokens=[TokenRule(Rule("ci", "write", prefixes=("ci/",)), hash_of("t"))],
        peers=[PeerRule(Rule("none", "read"), uid=os.getuid() + 1)],
    )
    async with served_http(objects, access=settings) as it:
        await it.rig.there("secret/a", b"x" * 100)
        for method in ("GET", "PUT"):
            for more in ({}, {"Authorization": "Bearer t"}, {"Authorization": "Bearer wrong"}):
                there, missing = [await it.ask(method, f"/v1/objects/secret/{name}", b"", **more) for name in "ab"]
                assert there.status == (403 if more.get("Authorization") == "Bearer t" else 401)
                assert there.body == missing.body
                alike = [
                    {name: value for name, value in answer.headers.items() if name != "Date"}
                    for answer in (there, missing)
                ]
                assert alike[0] == alike[1]
        assert (await it.ask("PUT", "/v1/objects/ci/a", b"x", Authorization="Bearer t")).status == 200


async def test_a_cursor_that_somebody_has_made_does_not_tell_what_is_hidden_behind_it() -> None:
    settings = AccessSettings(tokens=[TokenRule(Rule("lister", "read", can_list=True), hash_of("t"))])
    async with served_http(*api_mounts(dict), access=settings) as it:
        for key in ("a", "build/nx/repo/k1", "build/nx/repo/k2", "c", "quarantine/pr/nx/repo/k", "r", "s"):
            await it.rig.there(key, b"x")
        for limit in range(1, 5):
            pages = set()
            for after in ("build/a", "build/nx/repo/k1", "build/nx/repo/k2", "build/z"):
                cursor = base64.urlsafe_b64encode(after.encode()).decode()
                target = f"/v1/objects?limit={limit}&cursor={cursor}"
                pages.add((await it.ask("GET", target, Authorization="Bearer t")).body)
            (page,) = pages
            assert [found["key"] for found in json.loads(page)["objects"]] == ["c", "r", "s"][:limit]
        page = (await it.ask("GET", "/v1/objects?limit=4", Authorization="Bearer t")).body
        assert [found["key"] for found in json.loads(page)["objects"]] == ["a", "c", "r", "s"]
