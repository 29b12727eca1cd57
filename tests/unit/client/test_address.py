"""Where a client looks for the daemon."""

from __future__ import annotations

import pytest

from tiered_store.client.address import SOCKET_VARIABLE, default_socket_path


@pytest.mark.parametrize(
    ("named", "runtime", "expected"),
    [
        ("/x/s.sock", "/run/user/7", "/x/s.sock"),
        (None, "/run/user/7", "/run/user/7/tiered_store/store.sock"),
        ("", "/run/user/7", "/run/user/7/tiered_store/store.sock"),
        (None, None, "/run/tiered_store/store.sock"),
        (None, "", "/run/tiered_store/store.sock"),
    ],
)
def test_in_order(monkeypatch: pytest.MonkeyPatch, named: str | None, runtime: str | None, expected: str) -> None:
    for variable, value in ((SOCKET_VARIABLE, named), ("XDG_RUNTIME_DIR", runtime)):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
    assert default_socket_path() == expected
