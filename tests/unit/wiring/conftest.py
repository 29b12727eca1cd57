"""Configurations as an operator writes them, with everything of theirs in a temporary directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tiered_store.config.load import Flags, load
from tiered_store.config.model import Config

S3 = "[origin]\nbackend = 's3'\n[s3]\nbucket = 'builds'\nprovider = 'aws'\n"
CDN = "[cdn]\nbase_url = 'http://127.0.0.1:9/x'\n"
WRITE_BACK = "[[policies]]\nprefix = 'back/'\nwrite_back = true\n"


@pytest.fixture
def configured(tmp_path: Path):
    def make(text: str = "") -> Config:
        (tmp_path / "c.toml").write_text(text)
        environment: Mapping[str, str] = {"XDG_RUNTIME_DIR": str(tmp_path)}
        return load(tmp_path / "c.toml", flags=Flags(data_dir=tmp_path / "d"), environment=environment).config

    return make
