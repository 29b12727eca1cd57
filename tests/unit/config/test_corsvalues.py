from __future__ import annotations

import pytest

from tiered_store.config.corsvalues import parse_cors_origins


def test_origins_as_browsers_send_them() -> None:
    said = ["https://ci.example.com", "http://localhost:3000", "https://[::1]:8443"]
    assert parse_cors_origins(said) == tuple(said)
    assert parse_cors_origins([]) == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("https://a", "must be a list of origins"),
        (["*"], "every page on the web"),
        (["https://a/"], "without a path"),
        (["https://A"], "lower case"),
        (["a"], "must be origins as browsers send them"),
        (["null"], "must be origins as browsers send them"),
        ([5], "must be origins as browsers send them"),
        (["https://user@a"], "must be origins as browsers send them"),
        (["https://a\n"], "must be origins as browsers send them"),
        (["https://a:443"], "without the scheme's own port"),
        (["http://a:80"], "without the scheme's own port"),
    ],
)
def test_what_no_browser_sends(value: object, message: str) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        parse_cors_origins(value)
    assert message in str(caught.value)
