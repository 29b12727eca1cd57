"""Write docs/openapi.json anew from the description in tiered_store/servers/http/openapi.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tiered_store.servers.http.openapi import description  # noqa: E402 - the package is beside this directory


def main() -> None:
    (ROOT / "docs" / "openapi.json").write_text(json.dumps(description(), indent=2) + "\n")


if __name__ == "__main__":
    main()
