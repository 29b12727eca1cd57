"""What saving and restoring a tree gives."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TreeInfo"]


class TreeInfo(NamedTuple):
    """A tree that was saved or restored.

    Attributes:
        key: ``sha256:<hex>`` of its manifest; ``""`` where a lenient client found the daemon unavailable.
        files, links, directories, bytes: what is in it.
        new_files, new_bytes: of a save what the store did not have, equal contents counted once; of a restore what
            was not in place before.
        left_out: of a save the sockets, pipes and devices, which are no content.
    """

    key: str
    files: int = 0
    links: int = 0
    directories: int = 0
    bytes: int = 0
    new_files: int = 0
    new_bytes: int = 0
    left_out: tuple[str, ...] = ()

    @property
    def shared_bytes(self) -> int:
        """What was there already: in the store, or in the target."""
        return self.bytes - self.new_bytes
