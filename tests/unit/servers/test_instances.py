from __future__ import annotations

from tiered_store.build.entry import Place
from tiered_store.servers.access import AccessSettings, Caller, Gate, Rule, TokenRule
from tiered_store.servers.credentials import hash_of
from tiered_store.servers.instances import Instances
from tiered_store.servers.sockets import PeerCredentials

ME = PeerCredentials(1, 1000, 1000)
RULES = {
    "writer": Rule("writer", "write"),
    "reader": Rule("reader", "read", instances=frozenset({"main"})),
    "guest": Rule("guest", "write", quarantine=True),
}
GATE = Gate(AccessSettings(tokens=[TokenRule(rule, hash_of(name)) for name, rule in RULES.items()]))


def grant(token: str):
    return GATE.of(Caller(token, ME))


def test_where_keys_are_and_whether_any_may_be_stored():
    instances = Instances("ccache", read_only=False)
    for _ in range(2):  # the second time out of what it remembers
        assert instances.of(grant("writer"), "main") == (Place("ccache", "main"), True)
        assert instances.of(grant("reader"), "main") == (Place("ccache", "main"), False)
        assert instances.of(grant("reader"), "other") == (None, False)
        assert instances.of(grant("guest"), "main") == (Place("ccache", "main", "guest"), True)


def test_a_door_for_readers_lets_nobody_store():
    instances = Instances("resp", read_only=True)
    assert instances.of(grant("writer"), "main") == (Place("resp", "main"), False)
