from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tls import certificates_in
from tiered_store.config.httpmodel import HttpSection
from tiered_store.wiring.descriptors import CannotStart
from tiered_store.wiring.http import _tls


def test_a_certificate_that_has_gone_since_it_was_judged(tmp_path: Path) -> None:
    files = certificates_in(tmp_path / "tls")
    section = HttpSection(port=1, tls_certificate=files.certificate, tls_key=files.key)
    assert _tls(section) is not None
    assert _tls(HttpSection(port=1)) is None
    files.key.unlink()
    with pytest.raises(CannotStart, match=r"the certificate cannot be used: .*server.key cannot be read"):
        _tls(section)
