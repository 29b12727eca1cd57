"""Foreign errors become one of five kinds, by what has to be done about them."""

from __future__ import annotations

import errno
import os
import sqlite3

import diskcache
import pytest

from tiered_store.tiers.faults import Damaged, Kind, TierFault, translated


def translate(error):
    with pytest.raises(TierFault) as caught, translated():
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, Kind.FULL),
        (errno.EDQUOT, Kind.FULL),
        (errno.EMFILE, Kind.SHORT),
        (errno.ENFILE, Kind.SHORT),
        (errno.ENOMEM, Kind.SHORT),
        (errno.EIO, Kind.FAULTY),
        (errno.EROFS, Kind.FAULTY),
        (errno.EACCES, Kind.FAULTY),
        (errno.ENOENT, Kind.FAULTY),
    ],
)
def test_errors_of_the_system(number, kind):
    fault = translate(OSError(number, "words"))
    assert fault.kind is kind
    assert "words" in fault.reason


def sqlite_error(code, message="words"):
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    error.sqlite_errorname = "SQLITE_X"
    return error


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, Kind.FULL),
        (sqlite3.SQLITE_IOERR_SHMSIZE, Kind.FULL),
        (sqlite3.SQLITE_BUSY, Kind.BUSY),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Kind.BUSY),
        (sqlite3.SQLITE_NOMEM, Kind.SHORT),
        (sqlite3.SQLITE_CORRUPT, Kind.CORRUPT),
        (sqlite3.SQLITE_NOTADB, Kind.CORRUPT),
        (sqlite3.SQLITE_ERROR, Kind.CORRUPT),
        (sqlite3.SQLITE_IOERR_WRITE, Kind.FAULTY),
        (sqlite3.SQLITE_READONLY, Kind.FAULTY),
        (sqlite3.SQLITE_CANTOPEN, Kind.FAULTY),
    ],
)
def test_errors_of_sqlite(code, kind):
    assert translate(sqlite_error(code)).kind is kind


@pytest.mark.parametrize(("number", "kind"), [(errno.EMFILE, Kind.SHORT), (errno.EACCES, Kind.FAULTY)])
def test_a_lack_of_descriptors_is_not_the_disks_fault(monkeypatch, number, kind):
    def fail(*_):
        raise OSError(number, "words")

    assert "LimitNOFILE" in translate(OSError(errno.EMFILE, "words")).reason
    monkeypatch.setattr(os, "open", fail)
    fault = translate(sqlite_error(sqlite3.SQLITE_CANTOPEN))
    assert fault.kind is kind
    assert ("LimitNOFILE" in fault.reason) is (kind is Kind.SHORT)
    assert translate(sqlite_error(sqlite3.SQLITE_IOERR_WRITE)).kind is Kind.FAULTY


def test_an_error_of_the_python_module_is_about_the_data():
    assert translate(sqlite3.OperationalError("Could not decode to UTF-8")).kind is Kind.CORRUPT


def test_the_first_of_several_errors_counts():
    def fail():
        try:
            raise sqlite_error(sqlite3.SQLITE_FULL, "database or disk is full")
        except sqlite3.Error:
            raise sqlite_error(sqlite3.SQLITE_ERROR, "cannot rollback - no transaction is active")  # noqa: B904

    with pytest.raises(TierFault, match="full") as caught, translated():
        fail()
    assert caught.value.kind is Kind.FULL


def test_diskcaches_timeout_is_what_caused_it():
    def fail(cause):
        try:
            raise cause
        except sqlite3.OperationalError:
            raise diskcache.Timeout from None

    for code, kind in [(sqlite3.SQLITE_BUSY, Kind.BUSY), (sqlite3.SQLITE_READONLY, Kind.FAULTY)]:
        with pytest.raises(TierFault) as caught, translated():
            fail(sqlite_error(code))
        assert caught.value.kind is kind
    assert translate(diskcache.Timeout()).kind is Kind.BUSY


@pytest.mark.parametrize("error", [Damaged("x"), TierFault(Kind.FULL, "x"), KeyError("bug")])
def test_what_needs_no_translation_passes(error):
    with pytest.raises(type(error)) as caught, translated():
        raise error
    assert caught.value is error
