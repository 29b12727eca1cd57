"""What all unfinished uploads together may hold: pieces gathered in memory, and open files.

Belongs to one event loop; knows no keys and no files. Never waits: an upload that waited for others to end
would keep what it holds meanwhile, and so could they.

Invariant: what is taken never exceeds the bounds.
"""

from __future__ import annotations

from tiered_store.errors import DaemonUnavailable

__all__ = ["UploadRoom"]


class UploadRoom:
    """The bounds, and how much of them is in use.

    Args:
        max_bytes: gathered by all uploads together.
        max_uploads: under way at once; each may hold a descriptor.
    """

    def __init__(self, max_bytes: int, max_uploads: int) -> None:
        self._max_bytes = max_bytes
        self._max_uploads = max_uploads
        self.used_bytes = 0
        self.uploads = 0

    def enter(self) -> None:
        """One upload more, until :meth:`leave`. Raises DaemonUnavailable if that is too many."""
        if self.uploads >= self._max_uploads:
            raise DaemonUnavailable(
                f"{self.uploads} uploads are under way (as many as this daemon takes at once); try again later"
            )
        self.uploads += 1

    def leave(self) -> None:
        """An upload was finished or aborted."""
        self.uploads -= 1

    def take(self, size: int) -> bool:
        """Take ``size`` bytes until :meth:`give`, or tell that they are not there."""
        if self.used_bytes + size > self._max_bytes:
            return False
        self.used_bytes += size
        return True

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self.used_bytes -= size
