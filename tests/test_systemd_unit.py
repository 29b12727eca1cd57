"""The unit leaves every setting to the operator, and its default places are those that systemd makes for it."""

from __future__ import annotations

from pathlib import Path

from tiered_store.config.defaults import default_paths
from tiered_store.config.load import load
from tiered_store.config.sources import from_environment

UNIT = Path(__file__).resolve().parent.parent / "systemd" / "tiered_store.service"


def assigned(name: str) -> list[str]:
    """What the lines for one directive say, word by word."""
    lines = [line.partition("=") for line in UNIT.read_text().splitlines()]
    return [word for directive, _, value in lines if directive == name for word in value.split()]


def environment() -> dict[str, str]:
    pairs = (word.partition("=") for word in assigned("Environment"))
    return {name: value for name, _, value in pairs}


def test_the_unit_sets_nothing_that_a_configuration_file_could_set() -> None:
    layer = from_environment(environment())
    assert (layer.values, layer.faults, layer.notices) == ({}, [], [])


def test_the_daemons_places_are_the_systems_and_made_for_it() -> None:
    found = default_paths(environment(), 987, Path("/nonexistent"))
    assert found == default_paths({}, 0, Path("/root"))
    made = {
        Path("/run") / assigned("RuntimeDirectory")[0]: found.socket,
        Path("/var/lib") / assigned("StateDirectory")[0]: found.origin,
        Path("/var/cache") / assigned("CacheDirectory")[0]: found.cache / "any",
    }
    assert all(directory in place.parents for directory, place in made.items())


def test_a_file_moves_the_directories_of_the_service(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    file = tmp_path / "c.toml"
    file.write_text(
        f'[server]\nsocket = "{tmp_path}/s.sock"\n'
        f'[origin]\npath = "{tmp_path}/objects"\n'
        f'[disk]\npath = "{tmp_path}/cache"\n'
    )
    loaded = load(file, environment={**environment(), "TIERED_STORE_CONFIG": str(file)}, uid=987, home=Path("/none"))
    assert loaded.config.server.socket == tmp_path / "s.sock"
    assert loaded.config.origin.path == tmp_path / "objects"
    assert loaded.config.disk.path == tmp_path / "cache"
    assert loaded.notices == ()
