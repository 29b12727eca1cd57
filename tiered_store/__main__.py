"""``python -m tiered_store``."""

from tiered_store.cli import main

if __name__ == "__main__":
    main(prog_name="tiered-store")
