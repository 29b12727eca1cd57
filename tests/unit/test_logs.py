from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tests.support.logs import logging_restored
from tiered_store import logs

log = logging.getLogger("tiered_store.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with logging_restored():
        yield


def test_json_when_nobody_watches() -> None:
    stream = io.StringIO()
    logs.set_up("info", "auto", stream)
    log.info("daemon started", extra={"socket": "/a b", "pid": 7, "share": 0.5, "group": None})
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "tiered_store.test",
        "event": "daemon started",
        "socket": "/a b",
        "pid": 7,
        "share": 0.5,
        "group": None,
    }


def test_one_line_per_event_whatever_it_says() -> None:
    stream = io.StringIO()
    logs.set_up("info", "json", stream)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("a\nfault", extra={"key": "x\ny"})
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert "ValueError: two\nlines" in found["traceback"]
    assert found["event"] == "a\nfault"


def test_a_field_does_not_hide_what_every_line_has() -> None:
    stream = io.StringIO()
    logs.set_up("info", "json", stream)
    log.info("real", extra={"event": "false"})
    found = json.loads(stream.getvalue())
    assert (found["event"], found["event_"]) == ("real", "false")


def test_human_and_coloured_on_a_terminal() -> None:
    stream = Terminal()
    logs.set_up("info", "auto", stream)
    log.warning("slow", extra={"key": "a b", "seconds": 1.23456789, "size": 5, "empty": "", "plain": "x"})
    line = stream.getvalue()
    assert "\x1b[33mWARNING" in line
    assert line.endswith('slow  key="a b" seconds=1.23457 size=5 empty="" plain=x\n')


def test_human_without_colour_in_a_pipe() -> None:
    stream = io.StringIO()
    logs.set_up("info", "human", stream)
    log.info("plain")
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().endswith("INFO    plain\n")


def test_a_human_reads_the_traceback_below_the_line() -> None:
    stream = io.StringIO()
    logs.set_up("info", "human", stream)
    try:
        raise KeyError("x")
    except KeyError:
        log.exception("fault")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("fault")
    assert all(row.startswith("    ") for row in rest)
    assert rest[-1].endswith("KeyError: 'x'")


@pytest.mark.parametrize("form", ["human", "json"])
def test_foreign_text_cannot_drive_the_terminal_or_forge_a_line(form: logs.Format) -> None:
    stream = io.StringIO()
    logs.set_up("info", form, stream)
    log.info("key %s", "a\n2026 INFO forged\x1b[2J\u2028", extra={"list": ["b\nc"]})
    assert len(stream.getvalue().splitlines()) == 1 or form == "json"
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("form", ["human", "json"])
def test_secrets_and_bodies_are_not_written(form: logs.Format) -> None:
    stream = io.StringIO()
    logs.set_up("info", form, stream)
    log.info(
        "request",
        extra={
            "aws_secret_access_key": "hunter2",
            "headers": {"Authorization": "hunter2", "x": [b"hunter2"]},
            "body": b"hunter2",
            "view": memoryview(b"hunter2"),
        },
    )
    assert "hunter2" not in stream.getvalue()
    assert "<7 bytes>" in stream.getvalue()


def test_long_fields_are_cut() -> None:
    stream = io.StringIO()
    logs.set_up("info", "json", stream)
    log.info("x", extra={"key": "k" * 5000})
    assert json.loads(stream.getvalue())["key"] == "k" * 1000 + "... (5000 characters)"


def test_the_level_holds_and_a_second_set_up_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.set_up("debug", "json", first)
    logs.set_up("error", "json", second)
    log.warning("not severe enough")
    log.error("severe")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["event"] == "severe"


def test_the_sdk_does_not_write_its_requests_down() -> None:
    """At the level "debug" it would log their headers, with tokens of sessions in them."""
    stream = io.StringIO()
    logs.set_up("debug", "json", stream)
    for name in ("botocore.auth", "aiobotocore.endpoint", "boto3.resources", "aioboto3.session"):
        logging.getLogger(name).debug("x-amz-security-token: %s", "secret")
        logging.getLogger(name).info("said")
    logging.getLogger("tiered_store.x").debug("ours")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == [*["said"] * 4, "ours"]
    logs.set_up("error", "json", stream)
    logging.getLogger("botocore.auth").warning("not said")
    assert "not said" not in stream.getvalue()


def test_a_reader_that_has_gone_hurts_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """A line that cannot be written is lost; it raises nothing, and nobody complains in another place."""
    tried = []

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            tried.append(text)
            raise BrokenPipeError

    logs.set_up("info", "json", Gone())
    log.info("x")
    assert json.loads(tried[0])["event"] == "x"
    assert capsys.readouterr().err == ""
