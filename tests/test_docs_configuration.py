"""The reference file, docs/configuration.md and the program say the same about every setting."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tiered_store.client.address import default_socket_path
from tiered_store.config.accessmodel import ARRAYS
from tiered_store.config.defaults import default_paths
from tiered_store.config.load import load
from tiered_store.config.model import SECTIONS, Config, PolicyRule
from tiered_store.servers.limits import NativeLimits
from tiered_store.servers.serial import SerialLimits
from tiered_store.store.limits import StoreLimits
from tiered_store.store.policy import DEFAULT_POLICIES
from tiered_store.wiring.descriptors import DescriptorPlan
from tiered_store.wiring.doors import serial_limits
from tiered_store.wiring.settings import native_limits, store_limits

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "config" / "tiered_store.toml"
DOCUMENT = ROOT / "docs" / "configuration.md"

#: Arrays of tables; what each table must have has no default and is shown by an example.
RULES = {"policies": PolicyRule, **ARRAYS}
REQUIRED = {
    array: {name for name, field in rule.model_fields.items() if field.is_required()} for array, rule in RULES.items()
}
SETTINGS = {f"{section}.{name}" for section, model in SECTIONS.items() for name in model.model_fields} - set(RULES)
RULE_SETTINGS = {f"{array}.{name}" for array, rule in RULES.items() for name in rule.model_fields}


def flattened(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        setting = f"{above}{name}"
        if setting in RULES:
            flat.update(flattened(value[0], f"{setting}."))
        elif setting in SECTIONS:
            flat.update(flattened(value, f"{setting}."))
        else:
            flat[setting] = value
    return flat


def reference() -> dict[str, Any]:
    """The reference file with every setting made active."""
    text = re.sub(r"^# (?=[a-z_]+ = |\[\[)", "", REFERENCE.read_text(), flags=re.MULTILINE)
    return flattened(tomllib.loads(text))


def documented() -> dict[str, Any]:
    rows = re.findall(
        r"^\| `([a-z][a-z0-9_]*(?:\.[a-z_]+)+)` \| `(.+?)` \| .+ \|$", DOCUMENT.read_text(), flags=re.MULTILINE
    )
    assert len(rows) == len(dict(rows)), "a setting has two rows"
    return {name: tomllib.loads(f"value = {value}")["value"] for name, value in rows}


@pytest.mark.parametrize("found", [reference, documented])
def test_every_setting_is_explained_and_no_other(found: Any) -> None:
    assert set(found()) == SETTINGS | RULE_SETTINGS


def defaults() -> Config:
    """What root gets without any configuration."""
    paths = default_paths({}, 0, Path("/root"))
    required = {
        "server": {"socket": paths.socket},
        "disk": {"path": paths.cache},
        "origin": {"path": paths.origin},
        "write_back": {"path": paths.journal},
    }
    sections = {name: model.model_validate(required.get(name, {})) for name, model in SECTIONS.items()}
    return Config.model_validate({**sections, "policies": ()})


@pytest.mark.parametrize("found", [reference, documented])
def test_the_defaults_shown_are_the_defaults(found: Any) -> None:
    shown = found()
    config = defaults()
    for name, model in SECTIONS.items():
        values = {setting.partition(".")[2]: shown[setting] for setting in SETTINGS if setting.startswith(f"{name}.")}
        assert model.model_validate(values) == getattr(config, name)
    for array, rule in RULES.items():
        values = {setting.rpartition(".")[2]: v for setting, v in shown.items() if setting.startswith(f"{array}.")}
        examples = {name: values[name] for name in REQUIRED[array]}
        assert rule.model_validate(values) == rule.model_validate(examples)


def test_the_reference_file_is_a_configuration_that_changes_nothing(tmp_path: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    loaded = load(REFERENCE, environment=environment, uid=7, home=tmp_path)
    assert loaded.config == load(environment=environment, uid=7, home=tmp_path).config


def test_every_setting_is_introduced_by_prose() -> None:
    lines = REFERENCE.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"# [a-z_]+ = ", line):
            before = next(earlier for earlier in reversed(lines[:number]) if not re.match(r"# [a-z_]+ = ", earlier))
            assert before.startswith("# "), line


def test_every_variable_is_documented() -> None:
    from tiered_store.config import sources

    text = DOCUMENT.read_text()
    special = ("STORAGE_BACKEND", "STORAGE_ORIGIN_BACKEND")
    for variable in (*special, *sources._ALIASES, *sources._ELSEWHERE):
        assert f"`{variable}`" in text, variable


def test_the_rooms_own_defaults_are_the_configurations() -> None:
    """Settings have their defaults twice: for the operator, and for whoever builds a part by hand."""
    config = defaults()
    plan = DescriptorPlan(limit=4096, connections=config.server.max_connections, memory=1, disk=1)
    assert native_limits(config, plan) == NativeLimits()
    assert store_limits(config) == StoreLimits(drain_s=config.server.drain_timeout_s)
    assert serial_limits(config, config.resp) == serial_limits(config, config.crsh) == SerialLimits()
    everything_else = next(policy for policy in DEFAULT_POLICIES if policy.prefix == "")
    shared = {name: getattr(everything_else, name) for name in PolicyRule.model_fields}
    assert PolicyRule.model_validate(shared) == PolicyRule(prefix="")


@pytest.mark.parametrize("environment", [{}, {"XDG_RUNTIME_DIR": "/run/user/7"}])
@pytest.mark.parametrize("uid", [0, 7])
def test_daemon_and_client_agree_on_the_socket(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], uid: int
) -> None:
    for name in ("XDG_RUNTIME_DIR", "TIERED_STORE_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_socket_path() == str(default_paths(environment, uid, Path("/home/a")).socket)
