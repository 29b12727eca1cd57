"""Names below a directory in byte order, from any point on, without reading more than that takes.

Knows directories and names; what an object is, its caller finds out. All of it blocks.

The order is that of the full UTF-8 name, so a directory sorts as its name with a ``/`` behind it: ``a.txt``
comes before ``a/x``. (Python compares text by code point, and UTF-8 keeps that order.)

What it costs: a directory cannot be read from a name on, so finding the next names means reading all of its
entries once, about 1 us each. Of those, only a *window* is kept: the next ``WINDOW_ENTRIES`` names, in order.
Pages that lie in a window read nothing. A flat directory of n files is thus read n / ``WINDOW_ENTRIES`` + 1
times for a full listing, with at most some 2 MB in memory for each of ``_MAX_WINDOWS`` windows. A window is
used only while the directory is unchanged; while somebody keeps changing a directory, each page reads it
again. Directories outside the prefix or before the cursor are not even opened.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass

from tiered_store.key import key_of_name
from tiered_store.origins.localpath import FOR_LISTING, open_directory

__all__ = ["WINDOW_ENTRIES", "Window", "Windows", "ordered_names"]

WINDOW_ENTRIES = 16 * 1024
_MAX_WINDOWS = 8
#: Smaller directories are read again rather than kept: that is quick, and they would push out the large.
_MIN_KEPT_ENTRIES = 1000
#: Timestamps of directories are as coarse as 2 s on some file systems. A directory that changed more recently
#: may change again without looking different, so its window is not kept (as git treats its index).
_COARSE_CLOCK_NS = 2_500_000_000

_VANISHED = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class Window:
    """Some consecutive entries of one directory.

    Attributes:
        low: the window begins with the first entry not below this.
        entries: names in order; those of directories end with ``/``.
        is_last: whether the directory has none after these.
    """

    low: str
    entries: list[str]
    is_last: bool

    def covers(self, low: str) -> bool:
        """Whether the entries from ``low`` on begin in this window."""
        return self.low <= low and (self.is_last or (bool(self.entries) and low <= self.entries[-1]))


class Windows:
    """Reads windows and keeps the last few. Safe to use from several threads.

    Args:
        clock: nanoseconds since the epoch; what file systems stamp directories with.
        entries: the most names in one window.
    """

    def __init__(self, clock: Callable[[], int] = time.time_ns, *, entries: int = WINDOW_ENTRIES) -> None:
        self._clock = clock
        self._entries = entries
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[tuple[int, ...], str], Window] = OrderedDict()

    def window(self, fd: int, low: str) -> Window:
        """The window of an open directory in which the entries from ``low`` on begin.

        Raises:
            OSError: the directory cannot be read.
        """
        state = _state(fd)
        with self._lock:
            for key, window in self._kept.items():
                if key[0] == state and window.covers(low):
                    self._kept.move_to_end(key)
                    return window
        now = self._clock()
        window = self._read(fd, low)
        changed_ns = max(state[2:])
        if len(window.entries) >= _MIN_KEPT_ENTRIES and now - changed_ns > _COARSE_CLOCK_NS and _state(fd) == state:
            with self._lock:
                self._kept[state, low] = window
                while len(self._kept) > _MAX_WINDOWS:
                    self._kept.popitem(last=False)
        return window

    def _read(self, fd: int, low: str) -> Window:
        """Read the whole directory, holding on to at most twice as many names as a window has."""
        size = self._entries
        found: list[str] = []
        high: str | None = None  # once more than a window was found: names beyond this are of no use
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    name = entry.name + "/"
                elif entry.is_file(follow_symlinks=False):
                    name = entry.name
                else:
                    continue
                if name < low or (high is not None and name > high):
                    continue
                found.append(name)
                if len(found) == 2 * size:
                    found.sort()
                    del found[size:]
                    high = found[-1]
        found.sort()
        is_last = high is None and len(found) <= size
        del found[size:]
        return Window(low, found, is_last)


def _state(fd: int) -> tuple[int, ...]:
    # ctime too: tools that copy trees set a directory's mtime back, nothing sets its ctime.
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


class _Level:
    """One directory on the way down: its path (``""`` or ending with ``/``) and how far its names are used up."""

    __slots__ = ("_position", "_window", "low", "path", "prefix")

    def __init__(self, path: str, low: str, prefix: str = "") -> None:
        self.path = path
        self.prefix = prefix  # what its entries must begin with
        self.low = max(low, prefix)
        self._window: Window | None = None
        self._position = 0

    def has_read(self) -> bool:
        """Whether the next entry is known without looking at the directory."""
        return self._window is not None and (self._position < len(self._window.entries) or self._window.is_last)

    def take(self, window: Window) -> None:
        self._window = window
        self._position = bisect_left(window.entries, self.low)

    def next(self) -> str | None:
        """The next entry, or None at the end."""
        assert self._window is not None
        if self._position == len(self._window.entries):
            return None
        entry = self._window.entries[self._position]
        self._position += 1
        self.low = entry + "\0"  # the smallest text above it
        return entry if entry.startswith(self.prefix) else None


def _low(path: str, after: str) -> str:
    """From where on the entries of a directory can hold names after ``after``.

    Every path asked about here holds such names or lies behind ``after`` as a whole.
    """
    rest = after[len(path) :] if after.startswith(path) else ""
    first, slash, _ = rest.partition("/")
    if slash:
        return first + slash
    return rest + "\0" if rest else ""


class _Open:
    """The directory that is being looked at: one descriptor at a time, however deep the tree is."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._path: str | None = None
        self._fd = -1

    def at(self, path: str) -> int:
        """The descriptor of this directory; the one given before is closed if it was another.

        Raises:
            OSError: it cannot be opened.
        """
        if path != self._path:
            self.close()
            self._fd = open_directory(self._root, path.split("/")[:-1], FOR_LISTING)
            self._path = path
        return self._fd

    def close(self) -> None:
        fd, self._fd, self._path = self._fd, -1, None
        if fd >= 0:
            os.close(fd)


def ordered_names(root: int, windows: Windows, prefix: str, after: str) -> Generator[tuple[int, str, str], None, None]:
    """Walk over regular files, in order, as (descriptor of its directory, last segment, full name).

    Symbolic links, files that are not regular, and names that cannot be keys are left out, and nothing below
    such directories is looked at. The descriptor is good until the next step. A directory that vanishes
    meanwhile is over.

    Args:
        root: the directory that names are relative to.
        windows: what was read before.
        prefix: what the names begin with.
        after: what they sort after.

    Raises:
        OSError: a directory cannot be read.
    """
    if after < prefix:
        after = ""
    elif not after.startswith(prefix):
        return  # everything with this prefix sorts before
    base, slash, begun = prefix.rpartition("/")
    if slash and key_of_name(base) is None:
        return  # no key begins like this, and ".." is not to be opened
    top = base + slash
    opened = _Open(root)
    levels = [_Level(top, _low(top, after), begun)]
    try:
        while levels:
            level = levels[-1]
            try:
                if not level.has_read():
                    level.take(windows.window(opened.at(level.path), level.low))
                entry = level.next()
                if entry is None:
                    levels.pop()
                    continue
                name = level.path + entry
                if key_of_name(name.removesuffix("/")) is None:
                    continue
                if entry.endswith("/"):
                    levels.append(_Level(name, _low(name, after)))
                    continue
                parent = opened.at(level.path)
            except _VANISHED:
                levels.pop()
                continue
            yield parent, entry, name
    finally:
        opened.close()
