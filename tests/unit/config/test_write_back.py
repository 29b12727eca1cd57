"""The journal's settings: judged where a policy asks for it, and never passed over in silence while puts wait."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit.config.test_load import faults, read
from tiered_store.config.load import Flags
from tiered_store.objects import ObjectInfo
from tiered_store.store.journal import Journal

RULE = "[[policies]]\nprefix = 'back/'\nwrite_back = true\n"


def journal_at(path: Path) -> str:
    return f"write_back.path = '{path}'\n{RULE}"


def test_the_settings(tmp_path: Path) -> None:
    text = "[write_back]\nmax_bytes = '2MiB'\nmax_entries = 7\nuploads_at_once = 3\n" + RULE
    config = read(tmp_path, text).config
    section = config.write_back
    assert (section.max_bytes, section.max_entries, section.uploads_at_once) == (2**21, 7, 3)
    assert section.path == tmp_path / ".local/share/tiered_store/journal"
    assert [rule.write_back for rule in config.policies] == [True]
    assert read(tmp_path, flags=Flags(data_dir=tmp_path / "d")).config.write_back.path == tmp_path / "d/journal"
    variables: Mapping[str, str] = {"TIERED_STORE_WRITE_BACK__PATH": f"{tmp_path}/j"}
    assert read(tmp_path, environment=variables).config.write_back.path == tmp_path / "j"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("max_bytes = 5", "write_back.max_bytes: must be at least 1 MiB, not 5"),
        ("max_entries = 0", "write_back.max_entries: must be at least 1, not 0"),
        ("uploads_at_once = 0", "write_back.uploads_at_once: must be at least 1, not 0"),
        ("path = 'x'", "write_back.path: must be an absolute path, 'x' is relative; start it with '/' or '~'"),
    ],
)
def test_values_out_of_bounds(tmp_path: Path, text: str, fault: str) -> None:
    assert faults(tmp_path, f"[write_back]\n{text}") == [fault]


def test_a_path_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (found,) = faults(tmp_path, journal_at(tmp_path / "file"))
    assert found == f"write_back.path: {tmp_path}/file cannot be used: {tmp_path}/file is not a directory"
    assert read(tmp_path, f"write_back.path = '{tmp_path}/file'").notices == ()  # no policy asks for it


def test_a_journal_that_is_not_the_daemons_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "j"
    place.mkdir()
    place.chmod(0o775)
    (found,) = faults(tmp_path, journal_at(place))
    assert found.startswith(f"write_back.path: {place} can be written by others (mode 0775)")
    place.chmod(0o700)
    (tmp_path / "link").symlink_to(place)
    (found,) = faults(tmp_path, journal_at(tmp_path / "link"))
    assert found.startswith(f"write_back.path: {tmp_path}/link is a symbolic link")
    owner = place.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    (found,) = faults(tmp_path, journal_at(place))
    assert found.startswith(f"write_back.path: {place} belongs to uid {owner}")


@pytest.mark.parametrize("place", ["data", "data/j", "cache", "cache/j", "."])
def test_a_journal_in_another_place_of_ours(tmp_path: Path, place: str) -> None:
    (tmp_path / "data").mkdir()
    text = f"origin.path = '{tmp_path}/data'\ndisk.path = '{tmp_path}/cache'\n" + journal_at(tmp_path / place)
    found = faults(tmp_path, text)
    assert found
    assert all(fault.startswith("write_back.path: ") and "must not lie in one another" in fault for fault in found)


def test_puts_that_no_policy_asks_for_are_mentioned(tmp_path: Path) -> None:
    """The count is that of the journal's own files."""
    path = tmp_path / "j"
    journal = Journal(path)
    journal.open()
    for sequence in (1, 2):
        journal.append(sequence, ObjectInfo(f"back/{sequence}", 1, "e"), b"x")
    journal.close()
    (notice,) = read(tmp_path, f"write_back.path = '{path}'").notices
    assert notice.startswith(f"no policy says write_back, and {path} holds 2 puts that are not at the origin yet")
    assert read(tmp_path, journal_at(path)).notices == ()
    journal.remove([1, 2])
    assert read(tmp_path, f"write_back.path = '{path}'").notices == ()
