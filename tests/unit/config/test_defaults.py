from __future__ import annotations

from pathlib import Path

from tiered_store.config.defaults import DefaultPaths, default_paths, paths_below

HOME = Path("/home/a")


def test_root_gets_the_systems_directories() -> None:
    assert default_paths({}, 0, Path("/root")) == DefaultPaths(
        Path("/run/tiered_store/store.sock"),
        Path("/var/lib/tiered_store/origin"),
        Path("/var/cache/tiered_store"),
        Path("/var/lib/tiered_store/journal"),
    )


def test_root_ignores_xdg_data_but_shares_the_sessions_socket_with_its_clients() -> None:
    found = default_paths({"XDG_RUNTIME_DIR": "/run/user/0", "XDG_DATA_HOME": "/d", "XDG_CACHE_HOME": "/c"}, 0, HOME)
    assert found.socket == Path("/run/user/0/tiered_store/store.sock")
    assert found.origin == Path("/var/lib/tiered_store/origin")


def test_a_user_gets_xdg_directories() -> None:
    environment = {"XDG_RUNTIME_DIR": "/run/user/7", "XDG_DATA_HOME": "/d", "XDG_CACHE_HOME": "/c"}
    assert default_paths(environment, 7, HOME) == DefaultPaths(
        Path("/run/user/7/tiered_store/store.sock"),
        Path("/d/tiered_store/origin"),
        Path("/c/tiered_store"),
        Path("/d/tiered_store/journal"),
    )


def test_a_user_without_xdg_gets_what_xdg_defaults_to() -> None:
    assert default_paths({"XDG_DATA_HOME": "relative"}, 7, HOME) == DefaultPaths(
        Path("/run/tiered_store/store.sock"),
        HOME / ".local/share/tiered_store/origin",
        HOME / ".cache/tiered_store",
        HOME / ".local/share/tiered_store/journal",
    )


def test_below_one_directory() -> None:
    assert paths_below(Path("/x")) == (Path("/x/origin"), Path("/x/cache"), Path("/x/journal"))
