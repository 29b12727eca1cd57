"""The settings of tokens, peers and instances: what is refused, what is said, and that no message repeats a token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tiered_store.build.entry import Place
from tiered_store.config.accessmodel import parse_name
from tiered_store.config.faults import ConfigError
from tiered_store.config.load import Flags, Loaded, load
from tiered_store.errors import InvalidKey

ZEROS = "sha256:" + "0" * 64
ONES = "sha256:" + "1" * 64
SECRET = "tst_SECRET"

Read = Callable[..., Loaded]


def token(text: str = "", name: str = "t", digest: str = ZEROS) -> str:
    return f'[[access.tokens]]\nname = "{name}"\nhash = "{digest}"\n{text}\n'


def peer(text: str = "", name: str = "p") -> str:
    return f'[[access.peers]]\nname = "{name}"\n{text}\n'


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(text: str = "", **environment: str) -> Loaded:
        path = tmp_path / "c.toml"
        path.write_text(text)
        variables = {"XDG_RUNTIME_DIR": str(tmp_path), **environment}
        return load(path, flags=Flags(data_dir=tmp_path / "d"), environment=variables)

    return read


def test_nothing_said_is_no_rule(read: Read) -> None:
    config = read().config
    assert config.access.tokens == config.access.peers == config.build.instances == ()


def test_a_token_has_few_rights_where_nothing_is_said(read: Read) -> None:
    (rule,) = read(token()).config.access.tokens
    assert (rule.role, rule.prefixes, rule.can_list, rule.instances, rule.quarantine) == (
        "read",
        ("",),
        False,
        ("*",),
        False,
    )


def test_everything_said(read: Read) -> None:
    text = token('role = "write"\nprefixes = ["a/", "sha256:"]\ncan_list = true\ninstances = ["x"]\nquarantine = true')
    text += peer('uid = 1000\ngid = ""\nrole = "admin"') + '[[build.instances]]\nname = "*"\nanonymous = "none"\n'
    config = read(text + "[server]\nallow_uids = [0]\n").config
    (rule,), (found,), (instance,) = config.access.tokens, config.access.peers, config.build.instances
    assert (rule.prefixes, rule.instances, rule.can_list, rule.quarantine) == (("a/", "sha256:"), ("x",), True, True)
    assert (found.uid, found.gid, found.role) == (1000, None, "admin")
    assert (instance.name, instance.anonymous) == ("*", "none")


def test_the_environment_can_say_it(read: Read) -> None:
    said = f'[{{ name = "t", hash = "{ZEROS}", role = "admin" }}]'
    loaded = read(TIERED_STORE_ACCESS__TOKENS=said)
    assert loaded.config.access.tokens[0].role == "admin"
    assert loaded.sources["access.tokens"] == "TIERED_STORE_ACCESS__TOKENS"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[access]\ntokens = "x"', "access.tokens: is an array of tables"),
        ('[access]\ntokens = ["x"]', "access.tokens: is an array of tables"),
        ("[access]\ntoken = []", "access.token: unknown setting; did you mean 'tokens'?"),
        ('[[access.tokens]]\nname = "t"', "access.tokens[1].hash: is missing"),
        (f'[[access.tokens]]\nhash = "{ZEROS}"', "access.tokens[1].name: is missing"),
        (token("rol = 1"), "access.tokens[1].rol: unknown setting; did you mean 'role'?"),
        (token('role = "root"'), "access.tokens[1].role: must be 'read', 'write' or 'admin', not 'root'"),
        (token("can_list = 1"), "access.tokens[1].can_list: must be true or false, not 1"),
        (token('prefixes = "a"\ninstances = []'), "access.tokens[1].prefixes: must be a list of texts"),
        (token("prefixes = [1]\ninstances = []"), "access.tokens[1].prefixes: must be a list of texts"),
        (token('prefixes = []\ninstances = ["a/b"]'), "access.tokens[1].instances: must be 1 to 64 of"),
        (token(name="../x"), "access.tokens[1].name: must be 1 to 64 of"),
        (token(name="a" * 65), "access.tokens[1].name: must be 1 to 64 of"),
        (token(digest=SECRET), "access.tokens[1].hash: must be 'sha256:' and 64 lowercase hex digits"),
        (token(digest="0" * 64), "access.tokens[1].hash: must be 'sha256:' and 64 lowercase hex digits"),
        (token() + token(name="u"), "access.tokens[2].hash: is that of access.tokens[1], too"),
        (token() + token(digest=ONES), "access.tokens[2].name: access.tokens[1] is called 't', too"),
        (token() + peer(name="t"), "access.peers[1].name: access.tokens[1] is called 't', too"),
        (token('prefixes = ["a"]'), "access.tokens[1].instances: is missing: where prefixes are said"),
        (token('instances = ["a"]'), "access.tokens[1].prefixes: is missing: where instances are said"),
        (token('prefixes = ["/a"]\ninstances = []'), "access.tokens[1].prefixes: no key can start with '/a'"),
        (token('prefixes = ["build/x"]\ninstances = []'), "access.tokens[1].prefixes: only administrators reach"),
        (
            token('prefixes = ["artifacts/sha256/"]\ninstances = []'),
            "access.tokens[1].prefixes: artifacts are not reached",
        ),
        (token('prefixes = [""]\ninstances = ["a"]'), "access.tokens[1].prefixes: '' covers artifacts, and those are"),
        (token('prefixes = ["a", "sha"]\ninstances = []'), "access.tokens[1].prefixes: 'sha' covers artifacts"),
        (
            token('prefixes = [""]\ninstances = ["*"]\nquarantine = true\nrole = "write"'),
            "access.tokens[1].prefixes: '' covers artifacts",
        ),
        (peer('prefixes = [""]\ninstances = ["a"]'), "access.peers[1].prefixes: '' covers artifacts"),
        (token('role = "admin"\nprefixes = []'), "access.tokens[1].prefixes: means nothing for role = 'admin'"),
        (token('role = "admin"\nquarantine = true'), "access.tokens[1].quarantine: means nothing for role = 'admin'"),
        (token('role = "write"\nquarantine = true'), "access.tokens[1].prefixes: is missing: quarantine"),
        (token("quarantine = true\nprefixes = []\ninstances = []"), "access.tokens[1].quarantine: is about writing"),
        (peer('uid = "root"'), "access.peers[1].uid: must be a number such as 1000"),
        (peer("uid = true"), "access.peers[1].uid: must be a number such as 1000"),
        (peer("gid = -1"), "access.peers[1].gid: must be a number such as 1000"),
        (peer("gid = 4294967295"), "access.peers[1].gid: must be a number such as 1000"),
        ('[[build.instances]]\nname = "a"\n' * 2, "build.instances[2].name: 'a' has a rule already, number 1"),
        ('[[build.instances]]\nanonymous = "read"', "build.instances[1].name: is missing"),
        ('[[build.instances]]\nname = "a b"', "build.instances[1].name: must be 1 to 64 of"),
        ('[[build.instances]]\nname = "a"\nanonymous = "all"', "build.instances[1].anonymous: must be 'none', 'read'"),
    ],
)
def test_faults(read: Read, tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    (found,) = caught.value.faults
    assert str(found).startswith(f"{tmp_path}/c.toml: {fault}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        'role = "write"',
        'prefixes = [""]\ninstances = ["*"]',
        'prefixes = ["", "sha256:"]\ninstances = ["a"]',
        'prefixes = ["sha256:ab"]\ninstances = []',
        'prefixes = ["s/", "t"]\ninstances = ["a"]',
        'prefixes = ["sha256:"]\ninstances = ["a"]\nquarantine = true\nrole = "write"',
    ],
)
def test_rules_that_have_artifacts_because_they_say_so_or_bound_nothing(read: Read, text: str) -> None:
    assert len(read(token(text)).config.access.tokens) == 1


@pytest.mark.parametrize("text", ["{}", "[{}]", "'{}'", "[{{ name = 't', hash = '{}' }}]", "[{{ hash = '{}' }}]"])
def test_a_token_in_the_wrong_place_is_never_repeated(read: Read, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(TIERED_STORE_ACCESS__TOKENS=text.format(SECRET))
    assert SECRET not in str(caught.value)


def test_all_faults_of_one_array_are_told_at_once(read: Read) -> None:
    with pytest.raises(ConfigError) as caught:
        read(token('role = "x"') + token("can_list = 1", "u", ONES))
    assert [fault.setting for fault in caught.value.faults] == ["access.tokens[1].role", "access.tokens[2].can_list"]


def test_peers_who_are_bounded_here_and_not_on_the_native_socket(read: Read) -> None:
    (notice,) = read(peer()).notices
    assert notice.startswith("access.peers bounds what some users may do, and the native socket lets all do everything")
    assert read(peer() + "[server]\nallow_uids = [0]\n").notices == ()
    assert read(peer('role = "admin"')).notices == ()


def test_a_socket_that_is_open_to_all_needs_no_token(read: Read) -> None:
    door = '[http]\nsocket = "/tmp/h.sock"\nmode = "{}"\n'
    (notice,) = read(door.format("0666") + token()).notices
    assert notice.startswith(
        "http.mode 0666 lets every user of this machine do everything at /tmp/h.sock without a token"
    )
    assert read(door.format("0660") + token()).notices == ()
    assert read(door.format("0666")).notices == ()
    assert read(door.format("0666") + token() + peer('role = "admin"')).notices == ()


@pytest.mark.parametrize("name", ["a", "A.b_c-1", "9", "a" * 64, "", ".a", "-a", "a/b", "a" * 65, "a\n", "é", "a b"])
def test_names_are_those_that_build_caches_can_have(name: str) -> None:
    def is_fine(parse: Callable[[str], object]) -> bool:
        try:
            parse(name)
        except (ValueError, InvalidKey):
            return False
        return True

    assert is_fine(parse_name) == is_fine(lambda text: Place("nx", text))
