"""Who may do what: the table of rights, without any wire."""

from __future__ import annotations

from hmac import compare_digest
from typing import Any

import pytest

from tiered_store.build.entry import Place
from tiered_store.errors import InvalidKey
from tiered_store.key import name_of_key, parse_key
from tiered_store.servers import access
from tiered_store.servers.access import (
    AccessSettings,
    Caller,
    Gate,
    Grant,
    PeerRule,
    Right,
    Rule,
    TokenRule,
    beyond_hidden,
    is_own_name,
)
from tiered_store.servers.credentials import hash_of
from tiered_store.servers.sockets import PeerCredentials

READ, WRITE, DELETE, LIST = Right.READ, Right.WRITE, Right.DELETE, Right.LIST
PEER = PeerCredentials(pid=1, uid=1000, gid=100)
ARTIFACT = "sha256:" + "0" * 64


def token(name: str, role: Any, **more: Any) -> TokenRule:
    """A rule whose token is its name."""
    return TokenRule(Rule(name, role, **more), hash_of(name))


def granted(rule: TokenRule) -> Grant:
    return Gate(AccessSettings(tokens=[rule])).of(Caller(token=rule.rule.name))


def rights_for(grant: Grant, key: str) -> set[Right]:
    return {right for right in Right if grant.may(right, key)}


@pytest.mark.parametrize(
    ("rule", "key", "rights"),
    [
        (token("t", "read"), "a", {READ}),
        (token("t", "read"), ARTIFACT, {READ}),
        (token("t", "read", can_list=True), "a", {READ, LIST}),
        (token("t", "write"), "a", {READ, WRITE, DELETE}),
        (token("t", "write"), ARTIFACT, {READ, WRITE}),
        (token("t", "admin"), ARTIFACT, set(Right)),
        (token("t", "write", can_list=True), "", {READ, WRITE, DELETE, LIST}),
        (token("t", "admin"), "a", set(Right)),
        (token("t", "write", prefixes=("ci/", "x/")), "ci/a", {READ, WRITE, DELETE}),
        (token("t", "write", prefixes=("ci/", "x/")), "x/a", {READ, WRITE, DELETE}),
        (token("t", "write", prefixes=("ci/", "x/"), can_list=True), "ci", set()),
        (token("t", "write", prefixes=("ci/",), can_list=True), "", set()),
        (token("t", "write", prefixes=("ci/",)), "cix/a", set()),
        (token("t", "write", prefixes=("ci/",)), ARTIFACT, set()),
        (token("t", "write", prefixes=("sha256:",)), ARTIFACT, {READ, WRITE}),
        (token("t", "write", prefixes=()), "a", set()),
        (token("t", "write", prefixes=(), can_list=True), "", set()),
    ],
)
def test_what_a_token_may_do_with_a_key(rule: TokenRule, key: str, rights: set[Right]) -> None:
    assert rights_for(granted(rule), key) == rights


@pytest.mark.parametrize(
    "key",
    [
        "build/ccache/x/k",
        "quarantine/pr/ccache/x/k",
        "build/",
        "quarantine/",
        "build",
        "quarantine",
        name_of_key(parse_key(ARTIFACT)),
        "artifacts/sha256/",
        "artifacts/sha256",
        "artifacts",
    ],
)
def test_what_administrators_only_reach_by_key(key: str) -> None:
    prefixes = ("build/", "quarantine/", "artifacts/", "artifacts/sha256/", key)
    assert rights_for(granted(token("t", "write", can_list=True)), key) == set()
    assert rights_for(granted(token("t", "write", can_list=True, prefixes=prefixes)), key) == set()
    assert rights_for(granted(token("t", "admin")), key) == set(Right)


def test_names_that_only_look_like_those() -> None:
    for key in ("builds/a", "build.txt", "quarantined", "a/build/b", "artifacts/a", "artifacts/sha2", "artifacts2"):
        assert rights_for(granted(token("t", "write")), key) == {READ, WRITE, DELETE}


@pytest.mark.parametrize(
    ("rule", "prefix", "allowed"),
    [
        (token("t", "write"), "a/", True),
        (token("t", "write"), "", False),
        (token("t", "write"), "b", False),
        (token("t", "write"), "build", False),
        (token("t", "write"), "build/ccache/", False),
        (token("t", "write"), "builds/", True),
        (token("t", "write", prefixes=("ci/",)), "ci/", True),
        (token("t", "write", prefixes=("ci/",)), "c", False),
        (token("t", "read"), "a/", False),
        (token("t", "admin"), "", True),
        (token("t", "admin"), "build/", True),
    ],
)
def test_every_key_below_a_prefix(rule: TokenRule, prefix: str, allowed: bool) -> None:
    assert granted(rule).may_all(WRITE, prefix) is allowed


@pytest.mark.parametrize("prefix", ["sha256:", "sha256:ab", "s", "sha", "a", "artifacts/", "artifacts/sha256/"])
def test_artifacts_are_deleted_by_administrators_only(prefix: str) -> None:
    assert not granted(token("t", "write", can_list=True)).may_all(DELETE, prefix)
    assert granted(token("t", "admin")).may_all(DELETE, prefix)


def test_other_prefixes_are_deleted_by_writers() -> None:
    for prefix in ("sessions/", "si", "art/", "artifacts/mine/"):
        assert granted(token("t", "write")).may_all(DELETE, prefix)


@pytest.mark.parametrize(
    ("rule", "right", "allowed"),
    [
        (token("t", "read"), READ, True),
        (token("t", "read"), WRITE, False),
        (token("t", "write", prefixes=("ci/",)), WRITE, True),
        (token("t", "write", prefixes=()), READ, False),
    ],
)
def test_any_key_at_all(rule: TokenRule, right: Right, allowed: bool) -> None:
    assert granted(rule).may_any(right) is allowed


def test_a_listing_that_ends_with_a_hidden_key_goes_on_behind_all_of_them() -> None:
    for key in ("build/nx/repo/k", "build/\U0010fffe"):
        assert key < beyond_hidden(key) < "build0"
    assert "k" not in beyond_hidden("quarantine/pr/nx/repo/k")
    assert beyond_hidden("build") == "build"  # "build.txt" comes before "build/"
    assert "artifacts/sha256/a" < beyond_hidden("artifacts/sha256/0") < "artifacts/sha257"
    assert beyond_hidden("artifacts") == "artifacts"  # "artifacts/mine" may be shown
    parse_key(beyond_hidden("build/a"))


@pytest.mark.parametrize(
    ("rule", "reads", "writes"),
    [
        (token("t", "read"), True, False),
        (token("t", "write"), True, True),
        (token("t", "admin"), True, True),
        (token("t", "write", instances=frozenset({"repo"})), True, True),
        (token("t", "write", instances=frozenset({"other"})), False, False),
        (token("t", "write", instances=frozenset()), False, False),
        (token("t", "write", prefixes=()), True, True),
    ],
)
def test_what_a_token_may_do_with_a_build_cache(rule: TokenRule, reads: bool, writes: bool) -> None:
    place = Place("ccache", "repo")
    assert granted(rule).place("ccache", "repo", READ) == (place if reads else None)
    assert granted(rule).place("ccache", "repo", WRITE) == (place if writes else None)


def test_what_a_quarantined_token_writes_is_in_its_own_quarantine() -> None:
    grant = granted(token("pr", "write", quarantine=True))
    assert grant.place("nx", "repo", WRITE) == grant.place("nx", "repo", READ) == Place("nx", "repo", "pr")


@pytest.mark.parametrize("name", ["", "..", "a/b", "*", "a" * 65, "é"])
def test_an_instance_that_cannot_be(name: str) -> None:
    with pytest.raises(InvalidKey):
        granted(token("t", "admin")).place("nx", name, READ)


def test_whoever_opens_the_unix_socket_may_do_everything_unless_somebody_says_otherwise() -> None:
    grant = Gate(AccessSettings()).of(Caller(peer=PEER))
    assert rights_for(grant, "build/x") == set(Right)
    assert grant.place("nx", "repo", WRITE) == Place("nx", "repo")


@pytest.mark.parametrize(
    ("uid", "gid", "name"),
    [(1000, 100, "peer one"), (1000, 5, "peer one"), (7, 100, "peer group"), (7, 5, "nobody"), (0, 0, "nobody")],
)
def test_the_first_rule_that_fits_a_peer_decides(uid: int, gid: int, name: str) -> None:
    rules = [
        PeerRule(Rule("one", "write"), uid=1000),
        PeerRule(Rule("group", "read"), gid=100),
        PeerRule(Rule("never", "read"), uid=1000, gid=100),
    ]
    gate = Gate(AccessSettings(peers=rules))
    assert gate.of(Caller(peer=PeerCredentials(pid=1, uid=uid, gid=gid))).name == name


def test_a_rule_for_a_user_in_a_group_needs_both() -> None:
    gate = Gate(AccessSettings(peers=[PeerRule(Rule("both", "read"), uid=1000, gid=100)]))
    assert gate.of(Caller(peer=PEER)).is_known
    assert not gate.of(Caller(peer=PeerCredentials(pid=1, uid=1000, gid=101))).is_known
    assert not gate.of(Caller(peer=PeerCredentials(pid=1, uid=1001, gid=100))).is_known


def test_a_peer_without_a_rule_may_do_nothing() -> None:
    grant = Gate(AccessSettings(peers=[PeerRule(Rule("one", "admin"), uid=0)])).of(Caller(peer=PEER))
    assert rights_for(grant, "a") == set()
    assert grant.place("nx", "repo", READ) is None


def test_over_tcp_nobody_may_do_anything_without_a_token() -> None:
    gate = Gate(AccessSettings(tokens=[token("t", "admin")]))
    for caller in (Caller(), Caller(is_local=True), Caller(token="u"), Caller(token="u", is_local=True)):
        grant = gate.of(caller)
        assert rights_for(grant, "a") == set()
        assert grant.place("nx", "repo", READ) is None
        assert not grant.is_known


def test_an_open_door_is_open_to_this_machine_only() -> None:
    gate = Gate(AccessSettings(is_open=True))
    assert rights_for(gate.of(Caller()), "a") == set()
    assert rights_for(gate.of(Caller(is_local=True)), "a") == {READ}
    assert rights_for(gate.of(Caller(is_local=True)), "build/nx/repo/k") == set()


@pytest.mark.parametrize(
    ("kind", "rights", "of_artifacts"),
    [("none", set(), set()), ("read", {READ}, {READ}), ("write", {READ, WRITE, DELETE}, {READ, WRITE})],
)
def test_what_the_open_door_lets_do_with_objects(kind: Any, rights: set[Right], of_artifacts: set[Right]) -> None:
    grant = Gate(AccessSettings(is_open=True, anonymous_objects=kind)).of(Caller(is_local=True))
    assert rights_for(grant, "a") == rights
    assert rights_for(grant, ARTIFACT) == of_artifacts
    assert rights_for(grant, "") == rights  # and none to list
    assert grant.place("nx", "repo", READ) == Place("nx", "repo")


@pytest.mark.parametrize(
    ("anonymous", "instance", "reads", "writes"),
    [
        ({}, "repo", True, False),
        ({"repo": "none"}, "repo", False, False),
        ({"repo": "write"}, "repo", True, True),
        ({"repo": "write"}, "other", True, False),
        ({"*": "none"}, "repo", False, False),
        ({"*": "none", "repo": "read"}, "repo", True, False),
        ({"*": "write", "repo": "none"}, "repo", False, False),
    ],
)
def test_what_the_open_door_lets_do_with_a_build_cache(
    anonymous: Any, instance: str, reads: bool, writes: bool
) -> None:
    grant = Gate(AccessSettings(is_open=True, anonymous=anonymous)).of(Caller(is_local=True))
    assert (grant.place("nx", instance, READ) is not None) is reads
    assert (grant.place("nx", instance, WRITE) is not None) is writes


def test_a_token_decides_whatever_the_way_in_would_allow() -> None:
    gate = Gate(AccessSettings(tokens=[token("pr", "read", prefixes=("x/",))], is_open=True))
    for caller in (Caller("pr", PEER), Caller("pr", is_local=True), Caller("pr")):
        assert gate.of(caller).name == "token pr"
        assert rights_for(gate.of(caller), "a") == set()


def test_a_word_that_is_no_token_changes_nothing() -> None:
    gate = Gate(AccessSettings(tokens=[token("t", "admin")], is_open=True))
    assert gate.of(Caller("anything", PEER)).name == "unix socket"
    assert gate.of(Caller("anything", is_local=True)).name == "anonymous"
    assert gate.of(Caller("anything")).name == "nobody"


def test_every_token_is_compared_whichever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def compare(known: str, given: str) -> bool:
        compared.append(known)
        return compare_digest(known, given)

    gate = Gate(AccessSettings(tokens=[token(name, "read") for name in "abc"]))
    monkeypatch.setattr(access.hmac, "compare_digest", compare)
    for presented in ("a", "c", "no"):
        compared.clear()
        gate.of(Caller(token=presented))
        assert compared == [hash_of(name) for name in "abc"]


def test_a_grant_says_who_it_is_without_a_secret() -> None:
    assert granted(token("secret", "read")).name == "token secret"  # the name of the rule
    assert hash_of("secret") not in repr(granted(token("secret", "read")))


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.1.2.3:8080", "[::1]", "[::1]:80", "::1"]
)
def test_names_of_this_machine(host: str) -> None:
    assert is_own_name(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:80",
        "10.0.0.1",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "[::2]:80",
        "[",
        ":80",
        "[::1]evil.example",
        "[::1",
        "localhost:x@evil.example",
        "localhost:80:80",
        "localhost/evil.example",
    ],
)
def test_names_that_a_page_could_have(host: str) -> None:
    assert not is_own_name(host)
