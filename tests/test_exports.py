"""The public names: exactly these, and the same methods on both clients."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import tiered_store
from tiered_store import AsyncClient, Client, StoreError

ERRORS = {
    "DaemonUnavailable",
    "DeadlineExceeded",
    "IntegrityError",
    "InvalidKey",
    "KeyConflict",
    "NotFound",
    "OriginUnavailable",
    "PermissionDenied",
    "ProtocolError",
    "QuotaExceeded",
    "StoreError",
    "TooLarge",
}
METHODS = {
    "close",
    "copy",
    "delete",
    "delete_prefix",
    "exists",
    "exists_many",
    "flush",
    "get",
    "get_file",
    "get_into",
    "get_many",
    "get_tree",
    "get_view",
    "list",
    "ping",
    "put",
    "put_artifact",
    "put_file",
    "put_many",
    "put_tree",
    "stat",
    "stats",
}


def public(cls: type[Any]) -> set[str]:
    return {name for each in cls.__mro__[:-1] for name in vars(each) if not name.startswith("_")}


def test_the_names_of_the_package() -> None:
    assert set(tiered_store.__all__) == ERRORS | {"AsyncClient", "Client", "ObjectInfo", "TreeInfo"}
    for name in tiered_store.__all__:
        assert getattr(tiered_store, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Klient'"):
        tiered_store.Klient  # noqa: B018
    with pytest.raises(ImportError):
        from tiered_store import nothing  # noqa: F401


@pytest.mark.parametrize("name", sorted(ERRORS - {"StoreError"}))
def test_every_error_is_a_store_error(name: str) -> None:
    error = getattr(tiered_store, name)("what happened", key="k")
    assert isinstance(error, StoreError)
    assert (error.message, error.key, str(error)) == ("what happened", "k", "what happened (key 'k')")


@pytest.mark.parametrize("cls", [Client, AsyncClient])
def test_the_methods_of_a_client(cls: type[Any]) -> None:
    assert public(cls) == METHODS
    for name in METHODS:
        assert inspect.getdoc(getattr(cls, name)), f"{cls.__name__}.{name} says nothing of itself"


@pytest.mark.parametrize("name", [*sorted(METHODS), "__init__"])
def test_both_clients_take_the_same_arguments(name: str) -> None:
    one, other = (inspect.signature(getattr(cls, name)) for cls in (Client, AsyncClient))
    assert one.parameters == other.parameters
