from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from tiered_store.cli import output, transfer
from tiered_store.cli.output import progress_of, table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_bar_in_a_pipe() -> None:
    with redirect_stderr(io.StringIO()), progress_of("x") as progress:
        assert progress is None


def test_a_bar_on_a_terminal() -> None:
    total = output.BAR_MIN_BYTES * 2
    with redirect_stderr(Terminal()) as terminal, progress_of("long transfer") as progress:
        assert progress is not None
        progress(total // 2, total)
        progress(total, total)
    assert "long transfer" in terminal.getvalue()
    assert "100%" in terminal.getvalue()


def test_no_bar_for_a_short_transfer() -> None:
    with redirect_stderr(Terminal()) as terminal, progress_of("short") as progress:
        assert progress is not None
        progress(5, 5)
    assert terminal.getvalue() == ""


def test_a_transfer_of_unknown_length_shows_itself_once_it_is_long() -> None:
    with redirect_stderr(Terminal()) as terminal, progress_of("stream") as progress:
        assert progress is not None
        progress(5, None)
        assert terminal.getvalue() == ""
        progress(output.BAR_MIN_BYTES, None)
    assert "stream" in terminal.getvalue()


def test_a_long_file_is_streamed_where_somebody_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BAR_MIN_BYTES", 4)
    monkeypatch.setattr(output, "BAR_MIN_BYTES", 4)
    path = tmp_path / "f"
    path.write_bytes(b"12345678")
    with redirect_stderr(Terminal()) as terminal, transfer.source_of(str(path)) as (source, progress):
        assert not isinstance(source, str)
        assert source.read() == b"12345678"
        assert progress is not None
        progress(8, None)
    assert "100%" in terminal.getvalue()


def test_a_short_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"1234")
    with redirect_stderr(Terminal()), transfer.source_of(str(tmp_path / "f")) as (source, progress):
        assert (source, progress) == (str(tmp_path / "f"), None)


def test_tables() -> None:
    assert table([["a", "bb"], ["ccc", "d"]]) == "a    bb\nccc   d"
