from __future__ import annotations

import tomllib
from pathlib import Path

from benchmarks.daemon import clean_environment, config_text, tier_hits


def test_config_text_is_toml_of_the_same_settings():
    settings = {
        "memory": {"max_bytes": 1, "max_object_share": 1e-9},
        "disk": {"enabled": False},
        "origin": {"path": "/x"},
    }
    assert tomllib.loads(config_text(settings)) == settings


def test_tier_hits_picks_the_places_that_answer():
    stats = {name: {"hits": number, "misses": 7} for number, name in enumerate(("memory", "disk", "cdn", "origin"))}
    assert tier_hits(stats) == {"memory": 0, "disk": 1, "origin": 3}


def test_the_environment_of_a_child_has_no_settings_and_may_cache_bytecode(monkeypatch):
    monkeypatch.setenv("TIERED_STORE_MEMORY__MAX_BYTES", "1")
    monkeypatch.setenv("STORAGE_BACKEND", "s3")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = clean_environment()
    assert not {"TIERED_STORE_MEMORY__MAX_BYTES", "STORAGE_BACKEND", "PYTHONDONTWRITEBYTECODE"} & set(environment)
    root, elsewhere = environment["PYTHONPATH"].split(":")
    assert elsewhere == "/elsewhere"
    assert (Path(root) / "tiered_store").is_dir()
