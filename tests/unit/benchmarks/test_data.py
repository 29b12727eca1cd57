from __future__ import annotations

import hashlib

import pytest

from benchmarks.data import KIB, MIB, artifact_key, keys, payload, size_text, standard_library


def test_payload_is_the_same_each_time_and_of_the_size_asked_for():
    assert payload(1000) == payload(1000)
    assert len(payload(1000)) == 1000


def test_payload_differs_by_seed_and_size():
    assert payload(1000, 1) != payload(1000, 2)
    assert payload(1000) != payload(1001)[:1000]


def test_keys_are_distinct_and_sorted():
    names = keys(1100)
    assert names == sorted(set(names))
    assert len(names) == 1100


def test_artifact_key_is_the_digest():
    assert artifact_key(b"x") == "sha256:" + hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(("size", "text"), [(KIB, "1 KiB"), (64 * KIB, "64 KiB"), (MIB, "1 MiB"), (16 * MIB, "16 MiB")])
def test_size_text(size, text):
    assert size_text(size) == text


def test_the_standard_library_is_source_only():
    files = dict(standard_library())
    assert "json/decoder.py" in files
    assert files["json/decoder.py"].read_text().startswith('"""')
    assert not [name for name in files if "__pycache__" in name or "site-packages" in name]


def test_the_standard_library_can_be_cut_short():
    assert len(list(standard_library(limit=3))) == 3
