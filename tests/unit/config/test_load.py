from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from tiered_store.config import checks
from tiered_store.config.faults import ConfigError
from tiered_store.config.load import Flags, Loaded, load
from tiered_store.config.model import Config
from tiered_store.config.places import Obstacle


def read(
    tmp_path: Path, text: str = "", environment: Mapping[str, str] | None = None, flags: Flags | None = None
) -> Loaded:
    """Load with every default below ``tmp_path``."""
    file = tmp_path / "c.toml"
    file.write_text(text)
    given = {"XDG_RUNTIME_DIR": str(tmp_path), **(environment or {})}
    return load(file, flags=flags or Flags(), environment=given, uid=1000, home=tmp_path)


def faults(tmp_path: Path, text: str = "", environment: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, environment)
    return [str(fault).removeprefix(f"{tmp_path}/c.toml: ") for fault in caught.value.faults]


def test_nothing_at_all_is_a_configuration(tmp_path: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    loaded = load(environment=environment, uid=1000, home=tmp_path)
    assert loaded.config.server.socket == tmp_path / "tiered_store/store.sock"
    assert loaded.config.origin.path == tmp_path / ".local/share/tiered_store/origin"
    assert loaded.config.disk.path == tmp_path / ".cache/tiered_store"
    assert loaded.config.memory.max_bytes == 64_000_000
    assert set(loaded.sources.values()) == {"default"}
    assert loaded.notices == ()
    assert list(tmp_path.iterdir()) == []  # looked at, not touched


def test_flags_win_over_the_environment_that_over_the_file(tmp_path: Path) -> None:
    text = f'[server]\nsocket = "{tmp_path}/file.sock"\n[memory]\nmax_bytes = "2MiB"\n[log]\nlevel = "debug"'
    environment = {"TIERED_STORE_SOCKET": f"{tmp_path}/env.sock", "STORAGE_CACHE_MEMORY_MAX_BYTES": "4MiB"}
    loaded = read(tmp_path, text, environment, Flags(socket=tmp_path / "flag.sock"))
    assert loaded.config.server.socket == tmp_path / "flag.sock"
    assert loaded.config.memory.max_bytes == 4 * 2**20
    assert loaded.config.log.level == "debug"
    assert loaded.sources["server.socket"] == "--socket"
    assert loaded.sources["memory.max_bytes"] == "STORAGE_CACHE_MEMORY_MAX_BYTES"
    assert loaded.sources["log.level"] == str(tmp_path / "c.toml")


def test_the_data_directory_holds_origin_and_cache(tmp_path: Path) -> None:
    loaded = read(tmp_path, flags=Flags(data_dir=tmp_path / "d"))
    assert loaded.config.origin.path == tmp_path / "d/origin"
    assert loaded.config.disk.path == tmp_path / "d/cache"
    assert loaded.sources["disk.path"] == "--data-dir"


def test_flags_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = read(tmp_path, flags=Flags(socket=Path("s.sock"), data_dir=Path("d")))
    assert loaded.config.server.socket == tmp_path / "s.sock"
    assert loaded.config.disk.path == tmp_path / "d/cache"


def test_policies(tmp_path: Path) -> None:
    text = '[[policies]]\nprefix = "a/"\nttl_s = 5\n[[policies]]\nprefix = "b/"\nimmutable = true\n'
    first, second = read(tmp_path, text).config.policies
    assert (first.prefix, first.ttl_s, first.immutable) == ("a/", 5, False)
    assert (second.prefix, second.immutable) == ("b/", True)


def test_a_configuration_is_immutable(tmp_path: Path) -> None:
    config: Config = read(tmp_path).config
    with pytest.raises(ValidationError):
        config.memory.max_bytes = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[server]\nmax_connections = "7"', "server.max_connections: must be a whole number, not '7'"),
        ("[server]\nmax_connections = 1.5", "server.max_connections: must be a whole number, not 1.5"),
        ("[server]\nmax_connections = 0", "server.max_connections: must be at least 1, not 0"),
        ("[server]\nmax_in_flight = 70000", "server.max_in_flight: must be at most 65536, not 70000"),
        ("[server]\nhello_timeout_s = 0", "server.hello_timeout_s: must be more than 0, not 0"),
        ("[server]\nstall_timeout_s = inf", "server.stall_timeout_s: must be a finite number, not inf"),
        ("[server]\ngroup = 5", "server.group: must be a text in quotes, not 5"),
        ("[memory]\nmax_object_share = 0", "memory.max_object_share: must be more than 0, not 0"),
        ("[memory]\nmax_object_share = 2.0", "memory.max_object_share: must be at most 1, not 2.0"),
        ("[memory]\nmax_bytes = 5", "memory.max_bytes: must be at least 1 MiB, not 5"),
        ("[disk]\nenabled = 1", "disk.enabled: must be true or false, not 1"),
        ("[disk]\nmax_bytes = '1MB'", "disk.max_bytes: must be at least 16 MiB, not '1MB'"),
        ("[origin]\nbackend = 'gcs'", "origin.backend: 'gcs' is not supported by this version; use 'local' or 's3'"),
        ("[origin]\nbackend = 'ftp'", "origin.backend: must be 'local', 's3' or 'memory', not 'ftp'"),
        ("[origin]\nbackend = 'local'\nquota_bytes = 5", "origin.quota_bytes: bounds the memory backend only"),
        (
            "[limits]\nmax_metadata_bytes = '33KiB'",
            "limits.max_metadata_bytes: must be at most 32 KiB, not '33KiB'",
        ),
        ("[log]\nslow_request_s = true", "log.slow_request_s: must be a number, not True"),
        ("[[policies]]\nttl_s = 5", "policies[1].prefix: is missing; every rule needs it"),
        ("[[policies]]\nprefix = 'a'\ncdn = 'yes'", "policies[1].cdn: must be true or false, not 'yes'"),
        ("[[policies]]\nprefix = 'a'\nttl = 1", "policies[1].ttl: unknown setting; did you mean 'ttl_s'?"),
        ("[policies]\nprefix = 'a'", "policies: is an array of tables; write each rule below [[policies]]"),
        ("[[policies]]\nprefix = '/a'", "policies[1].prefix: no key can start with '/a': "),
        ("[[policies]]\nprefix = 'a//b'", "policies[1].prefix: no key can start with 'a//b': "),
        ("[[policies]]\nprefix = '../'\nimmutable = true", "policies[1].prefix: no key can start with '../': "),
        ("[[policies]]\nprefix = 'b'\n[[policies]]\nprefix = '.tiered_store/'", "policies[2].prefix: no key can start"),
        (f"[[policies]]\nprefix = '{'a' * 1023}/'", "policies[1].prefix: no key can start with 'aaa"),
        ("[fills]\nmax_uploads = 0", "fills.max_uploads: must be at least 1, not 0"),
        ("[fills]\nmax_uploads = 100000", "fills.max_uploads: must be at most 65536, not 100000"),
        ("[fills]\nupload_buffer_bytes = '1 pint'", "fills.upload_buffer_bytes: "),
        ("[fills]\nupload_buffer_bytes = '900TiB'", "fills.upload_buffer_bytes: 900 TiB is more memory than this"),
        ("[[policies]]\nprefix = 'a'\nimmutable = true\nttl_s = 5", "policies[1].ttl_s: has no meaning"),
        (
            "[[policies]]\nprefix = 'a'\n[[policies]]\nprefix = 'a'",
            "policies[2].prefix: 'a' has a rule already, number 1",
        ),
        ("[[policies]]\nprefix = 'sha256:'", "policies[1].prefix: artifacts are immutable by definition"),
        ("[server]\ngroup = 4294967295", "server.group: must be a text in quotes"),
        ("[server]\ngroup = '4294967295'", "server.group: a group's number is at most 4294967294, not 4294967295"),
        ('[server]\ngroup = "\\u0000"', "server.group: there is no group '\\x00'"),
        ("[origin]\nbackend = ['s3']", "origin.backend: must be 'local', 's3' or 'memory', not ['s3']"),
        ("[server]\ngroup = 'no-such-group-here'", "server.group: there is no group 'no-such-group-here'"),
        ("[memory]\nmax_bytes = '900TiB'", "memory.max_bytes: 900 TiB is more memory than this machine has"),
        ("[fills]\nbuffer_bytes = '900TiB'", "fills.buffer_bytes: 900 TiB is more memory than this machine has"),
    ],
)
def test_one_line_per_fault(tmp_path: Path, text: str, fault: str) -> None:
    (found,) = faults(tmp_path, text)
    assert found.startswith(fault)


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    text = """
    [server]
    sokcet = "/a"
    mode = "999"
    max_connections = 0
    [memory]
    max_bytes = "many"
    [[policies]]
    prefix = "a/"
    ttl_s = -1
    [[policies]]
    prefix = "//"
    """
    found = faults(tmp_path, text, {"TIERED_STORE_DISK__PAHT": "/x", "STORAGE_LOCAL_PATH": "/dev/null/x"})
    assert [fault.partition(": ")[0] for fault in found[:1]] == ["server.sokcet"]
    settings = sorted(fault.removeprefix("STORAGE_LOCAL_PATH: ").split(":")[0] for fault in found)
    assert settings == [
        "TIERED_STORE_DISK__PAHT",
        "memory.max_bytes",
        "origin.path",
        "policies[1].ttl_s",
        "policies[2].prefix",
        "server.max_connections",
        "server.mode",
        "server.sokcet",
    ]


def test_a_faulty_rule_shows_all_its_faults(tmp_path: Path) -> None:
    text = """
    [[policies]]
    prefix = "/x"
    ttl_s = "x"
    tll_s = 1
    [[policies]]
    ttl_s = -1
    [[policies]]
    prefix = ""
    immutable = true
    stale_while_revalidate_s = 1
    negative_ttl_s = "soon"
    [[policies]]
    prefix = ""
    """
    assert [fault.partition(":")[0] for fault in faults(tmp_path, text)] == [
        "policies[1].ttl_s",
        "policies[1].tll_s",
        "policies[2].prefix",
        "policies[2].ttl_s",
        "policies[3].negative_ttl_s",
        "policies[1].prefix",
        "policies[3].stale_while_revalidate_s",
        "policies[4].prefix",  # the double of the third; the second, which has none, is nobody's
    ]


def test_a_faulty_socket_does_not_hide_a_faulty_group(tmp_path: Path) -> None:
    found = faults(tmp_path, f"[server]\nsocket = '/{'x' * 107}'\ngroup = 'no-such-group-here'")
    assert [fault.partition(":")[0] for fault in found] == ["server.socket", "server.group"]


def test_what_a_stronger_source_replaces_is_said(tmp_path: Path) -> None:
    text = f'[server]\nsocket = "{tmp_path}/file.sock"\n[memory]\nmax_bytes = "2MiB"\n[log]\nlevel = "debug"'
    environment = {"TIERED_STORE_SOCKET": f"{tmp_path}/env.sock", "TIERED_STORE_MEMORY__MAX_BYTES": "4MiB"}
    flags = Flags(socket=tmp_path / "flag.sock", data_dir=tmp_path / "d")
    assert set(read(tmp_path, text, environment, flags).notices) == {
        f"server.socket from {tmp_path}/c.toml is not used, because TIERED_STORE_SOCKET is set",
        f"memory.max_bytes from {tmp_path}/c.toml is not used, because TIERED_STORE_MEMORY__MAX_BYTES is set",
        "server.socket from TIERED_STORE_SOCKET is not used, because --socket is set",
    }


def test_a_fault_names_the_variable_that_it_came_from(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, environment={"TIERED_STORE_LOG__SLOW_REQUEST_S": "soon"})
    assert found == "TIERED_STORE_LOG__SLOW_REQUEST_S: log.slow_request_s: must be a number, not 'soon'"


def test_a_faulty_path_is_not_judged_twice(tmp_path: Path) -> None:
    assert len(faults(tmp_path, "[origin]\npath = 'relative'")) == 1


def test_a_socket_path_over_the_systems_limit(tmp_path: Path) -> None:
    path = f"/{'x' * 107}"
    (found,) = faults(tmp_path, f"[server]\nsocket = '{path}'")
    assert found == f"server.socket: {path} has 108 bytes, the system allows 107; choose a shorter path"


def test_a_directory_where_the_socket_should_be(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, f"[server]\nsocket = '{tmp_path}'")
    assert found.startswith(f"server.socket: {tmp_path} is a directory")


def test_a_file_where_the_socket_should_be(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, f"[server]\nsocket = '{tmp_path}/c.toml'")
    assert found.startswith(f"server.socket: {tmp_path}/c.toml is a file that is no socket")


def test_a_socket_that_exists_is_left_to_the_daemon(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "s.sock"))
    assert read(tmp_path, f"[server]\nsocket = '{tmp_path}/s.sock'").config.server.socket.name == "s.sock"


def test_a_numeric_group_needs_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getegid", lambda: 54321)
    assert read(tmp_path, "[server]\ngroup = '54321'").config.server.group == "54321"


def test_a_group_that_this_user_cannot_give_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"[server]\nsocket = '{tmp_path}/new/s.sock'\ngroup = '54321'\n[disk]\nenabled = false"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [4, 1000])
    (found,) = faults(tmp_path, text)
    assert found.startswith("server.group: the socket cannot be given to '54321': uid 1000 is neither root nor")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(os, "getgroups", lambda: [4, 54321])
    assert read(tmp_path, text).config.server.group == "54321"
    monkeypatch.setattr(os, "getgroups", list)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert read(tmp_path, text).config.server.group == "54321"


@pytest.mark.parametrize("setting", ["origin", "disk"])
def test_a_path_below_a_file(tmp_path: Path, setting: str) -> None:
    (tmp_path / "file").touch()
    (found,) = faults(tmp_path, f"[{setting}]\npath = '{tmp_path}/file/below/it'")
    assert found == f"{setting}.path: {tmp_path}/file/below/it cannot be used: {tmp_path}/file is not a directory"


def test_a_path_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "locked"
    place.mkdir()
    real = os.access
    # Root may write everywhere, so the kernel's answer is played.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != place and real(path, mode))
    (found,) = faults(tmp_path, f"[origin]\npath = '{place}/below/it'")
    assert found.startswith(f"origin.path: {place}/below/it cannot be used: {place} is not writable for this user")


def test_a_socket_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (found,) = faults(tmp_path, f"[server]\nsocket = '{tmp_path}/file/s.sock'")
    assert found.startswith(f"server.socket: {tmp_path}/file/s.sock cannot be created: {tmp_path}/file is not a dir")


def test_a_path_that_cannot_be_looked_at(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    (found,) = faults(tmp_path, f"[origin]\npath = '{loop}/x'")
    assert "Too many levels of symbolic links" in found


@pytest.mark.parametrize("setting", ["origin", "disk"])
def test_a_path_in_a_view_of_the_kernel(tmp_path: Path, setting: str) -> None:
    """Root may write there by its permissions, and no file can be made all the same."""
    (found,) = faults(tmp_path, f"[{setting}]\npath = '/proc/nowhere/data'")
    assert found.startswith(f"{setting}.path: /proc/nowhere/data cannot be used: /proc is a view of the kernel (proc)")


@pytest.mark.parametrize(
    ("source", "text", "environment"),
    [("c.toml", "[origin]\npath = '{}'", {}), ("STORAGE_LOCAL_PATH", "", {"STORAGE_LOCAL_PATH": "{}"})],
)
def test_an_origin_that_somebody_named_must_be_there(
    tmp_path: Path, source: str, text: str, environment: Mapping[str, str]
) -> None:
    path = tmp_path / "mnt/objects"
    given = {name: value.format(path) for name, value in environment.items()}
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text.format(path), given)
    (fault,) = caught.value.faults
    assert fault.source.endswith(source)
    assert fault.setting == "origin.path"
    assert fault.message.startswith(f"{path} does not exist; mount what holds it, or make it")
    assert not (tmp_path / "mnt").exists()
    path.mkdir(parents=True)
    assert read(tmp_path, text.format(path), given).config.origin.path == path


@pytest.mark.parametrize("setting", ["origin", "disk"])
def test_a_link_that_leads_nowhere(tmp_path: Path, setting: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    (found,) = faults(tmp_path, f"[{setting}]\npath = '{tmp_path}/link'")
    assert found.endswith(f"{tmp_path}/link is a symbolic link that leads nowhere")


def played(monkeypatch: pytest.MonkeyPatch, place: Path, reason: str, *, passing: bool) -> None:
    """What is in the way at one place, and nowhere else."""
    found = Obstacle(reason, is_passing=passing)
    monkeypatch.setattr(checks, "obstacle", lambda path: found if path == place else None)


def test_a_disk_in_a_bad_state_is_no_fault_of_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"[disk]\npath = '{tmp_path}/cache'"
    played(monkeypatch, tmp_path / "cache", "it is mounted read-only", passing=True)
    assert read(tmp_path, text).config.disk.path == tmp_path / "cache"
    played(monkeypatch, tmp_path / "cache", "not writable", passing=False)
    assert faults(tmp_path, text) == [f"disk.path: {tmp_path}/cache cannot be used: not writable"]


def test_but_of_an_origin_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played(monkeypatch, tmp_path / "o", "it is mounted read-only", passing=True)
    text = f"[origin]\npath = '{tmp_path}/o'"
    assert faults(tmp_path, text) == [f"origin.path: {tmp_path}/o cannot be used: it is mounted read-only"]


def test_a_cache_directory_that_others_can_write(tmp_path: Path) -> None:
    place = tmp_path / "cache"
    place.mkdir()
    place.chmod(0o775)
    (found,) = faults(tmp_path, f"[disk]\npath = '{place}'")
    assert found.startswith(f"disk.path: {place} can be written by others (mode 0775); chmod go-w")
    place.chmod(0o755)  # the tier closes it itself
    assert read(tmp_path, f"[disk]\npath = '{place}'").config.disk.path == place


def test_a_cache_directory_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "cache"
    place.mkdir(mode=0o700)
    owner = place.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    (found,) = faults(tmp_path, f"[disk]\npath = '{place}'")
    assert found.startswith(f"disk.path: {place} belongs to uid {owner}, and this is uid {owner + 1}; run this as that")


def test_a_link_to_a_cache_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "cache").symlink_to(tmp_path / "real")
    (found,) = faults(tmp_path, f"[disk]\npath = '{tmp_path}/cache'")
    real = os.path.realpath(tmp_path / "real")
    assert found == f"disk.path: {tmp_path}/cache is a symbolic link; name the directory itself: {real}"


@pytest.mark.parametrize("cache", ["data", "data/cache", "."])
def test_cache_and_origin_in_one_another(tmp_path: Path, cache: str) -> None:
    (tmp_path / "data").mkdir()
    (found,) = faults(tmp_path, f"[origin]\npath = '{tmp_path}/data'\n[disk]\npath = '{tmp_path}/{cache}'")
    assert found.startswith("disk.path: ")
    assert "must not lie in one another" in found


def test_paths_that_are_not_used_are_not_judged(tmp_path: Path) -> None:
    text = "[origin]\nbackend = 'memory'\npath = '/dev/null/x'\n[disk]\nenabled = false\npath = '/dev/null/y'"
    assert read(tmp_path, text).config.origin.backend == "memory"


def test_a_user_without_a_home_gets_a_fault_not_a_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    loaded = load(environment={"XDG_RUNTIME_DIR": str(tmp_path)}, uid=1000, flags=Flags(data_dir=tmp_path))
    assert loaded.config.origin.path == tmp_path / "origin"
