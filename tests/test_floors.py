"""What importing a client costs: CI jobs that only read must start in milliseconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import clean_environment, unmeasured

#: Third-party packages have their home behind the socket; asyncio is for those who ask for it.
HEAVY = ("aioboto3", "aiohttp", "botocore", "cachetools", "click", "diskcache", "pydantic", "sqlite3", "uvloop")
#: The standard library has weights of its own: milliseconds each, or what brings such along.
COSTLY = ("asyncio", "ast", "dataclasses", "datetime", "decimal", "hashlib", "inspect", "logging", "pathlib", "random")
COSTLY += ("shutil", "ssl", "subprocess", "tempfile", "urllib")
BEHIND_THE_SOCKET = ("cli", "config", "daemon", "origins", "servers", "store", "tiers", "wiring")


def loaded_by(statement: str) -> set[str]:
    """The modules that are loaded after a statement, in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    environment = unmeasured(clean_environment())  # measuring coverage loads sqlite3 and more
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import tiered_store",
        "from tiered_store import Client",
        "from tiered_store import AsyncClient",
        "from tiered_store import *",
    ],
)
def test_clients_load_nothing_of_the_daemon(statement: str) -> None:
    loaded = loaded_by(statement)
    assert "tiered_store" in loaded
    assert {name.split(".")[0] for name in loaded}.isdisjoint(HEAVY)
    assert "importlib.metadata" not in loaded
    ours = {name.split(".")[1] for name in loaded if name.startswith("tiered_store.")}
    assert ours.isdisjoint(BEHIND_THE_SOCKET)


@pytest.mark.parametrize(
    "statement", ["import tiered_store", "from tiered_store import Client", "import tiered_store.errors"]
)
def test_who_does_not_use_asyncio_loads_nothing_costly(statement: str) -> None:
    loaded = loaded_by(statement) - loaded_by("pass")
    assert "tiered_store" in loaded
    assert {name.split(".")[0] for name in loaded}.isdisjoint(COSTLY)


def test_using_the_synchronous_client_loads_no_more() -> None:
    """Not only the import: a whole failed call without a daemon, too."""
    statement = (
        "from tiered_store import Client, DaemonUnavailable\n"
        "try:\n    Client('/none').get('x')\n"
        "except DaemonUnavailable:\n    pass\n"
        "else:\n    raise SystemExit(1)"
    )
    loaded = loaded_by(statement) - loaded_by("pass")
    assert {name.split(".")[0] for name in loaded}.isdisjoint({*COSTLY, *HEAVY})


def test_a_go_command_that_finds_everything_here_loads_next_to_nothing(tmp_path: Path) -> None:
    """Each go command waits for its cache program to start."""
    requests = b'{"ID":1,"Command":"get","ActionID":"AAAA"}\n{"ID":2,"Command":"close"}\n'
    statement = (
        "import os, sys\n"
        f"sys.argv[1:] = ['gocacheprog', '--dir', {str(tmp_path)!r}, '--socket', '/none']\n"
        "stdin, requests = os.pipe()\n"
        f"os.write(requests, {requests!r}); os.close(requests)\n"
        "os.dup2(stdin, 0); kept = os.dup(1); os.dup2(os.open('/dev/null', os.O_WRONLY), 1)\n"
        "from tiered_store.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "os.dup2(kept, 1)"
    )
    loaded = loaded_by(statement) - loaded_by("pass")
    assert "tiered_store.gocache.program" in loaded
    assert loaded.isdisjoint({*COSTLY, *HEAVY, "argparse", "contextlib", "enum", "json", "re", "socket", "threading"})
    assert loaded.isdisjoint(
        {"typing", "tiered_store.errors", "tiered_store.client.sync", "tiered_store.gocache.remote"}
    )
