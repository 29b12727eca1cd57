"""Heads of answers."""

from __future__ import annotations

import pytest

from tiered_store.key import Key
from tiered_store.objects import ObjectInfo
from tiered_store.servers.http import heads as module
from tiered_store.servers.http.heads import Heads, head_of
from tiered_store.store.policy import Policy


def test_a_field_cannot_end_early() -> None:
    with pytest.raises(ValueError, match="control character"):
        head_of(200, {"X": "a\r\nY: b"}, 0)


def test_few_and_small_heads_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 2)
    heads = Heads()

    def policy(_: Key) -> Policy:
        return Policy("")

    small = [ObjectInfo(f"k{number}", 1, "v") for number in range(3)]
    assert heads.of(small[0], policy) is heads.of(small[0], policy)
    for info in small:
        heads.of(info, policy)
    assert len(heads._known) <= 2
    large = ObjectInfo("large", 1, "v", metadata={"a": "b" * 5000})
    assert heads.of(large, policy) == heads.of(large, policy)
    assert "large" not in heads._known
