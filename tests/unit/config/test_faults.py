from __future__ import annotations

from tiered_store.config.faults import ConfigError, Fault, nearest


def test_a_fault_is_one_line() -> None:
    assert str(Fault("/etc/x.toml", "server.mode", "is\n bad")) == "/etc/x.toml: server.mode: is bad"


def test_a_fault_about_a_whole_source_names_no_setting() -> None:
    assert str(Fault("/etc/x.toml", "", "cannot be read")) == "/etc/x.toml: cannot be read"


def test_an_error_shows_every_fault() -> None:
    error = ConfigError([Fault("a", "b.c", "d"), Fault("e", "f.g", "h")])
    assert str(error).splitlines() == ["a: b.c: d", "e: f.g: h"]
    assert len(error.faults) == 2


def test_the_nearest_name() -> None:
    assert nearest("sokcet", ["socket", "mode"]) == "did you mean 'socket'?"
    assert nearest("MODE", ["socket", "mode"]) == "did you mean 'mode'?"


def test_nothing_near_lists_what_there_is() -> None:
    assert nearest("zzzzzz", ["socket", "mode"]) == "known are mode, socket"
