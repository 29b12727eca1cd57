"""A real nginx for tests: a cache in front of a directory or of another HTTP server, as an operator would set it up.

It listens on the loopback, keeps everything in a temporary directory, and ends with the process that started it.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.servers import free_port, is_missing, started

__all__ = ["Nginx", "nginx_cache"]

_DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "operations.md"
#: Round the configuration that docs/operations.md recommends: places of a test, and a server of a directory's files.
_CONFIG = """
daemon off;
{user}
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log info;
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    scgi_temp_path {directory}/scgi;
    uwsgi_temp_path {directory}/uwsgi;
    log_format asked '$request_method $uri $status $upstream_cache_status';
    access_log {directory}/access.log asked;
    default_type application/octet-stream;
    {recommended}
    server {{
        listen 127.0.0.1:{files_port};
        root {root};
        location ~ /\\.tiered_store {{ return 404; }}
    }}
}}
"""


def _recommended(changes: dict[str, str]) -> str:
    """The configuration in the document, with other places."""
    text = _DOCUMENT.read_text().partition("```nginx\n")[2].partition("```")[0]
    for shown, wanted in changes.items():
        assert shown in text, f"docs/operations.md does not show {shown!r} any more"
        text = text.replace(shown, wanted)
    return text


class Nginx:
    """One nginx: a cache, and behind it a server of a directory's files."""

    def __init__(self, directory: Path, root: Path, upstream: str | None, *, sliced: bool) -> None:
        self.directory = directory
        self.port, files_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        changes = {
            "listen 8080;": f"listen 127.0.0.1:{self.port};",
            "/var/cache/nginx/store": f"{directory}/cache",
            "https://builds.s3.eu-central-1.amazonaws.com": upstream or f"http://127.0.0.1:{files_port}",
        }
        if not sliced:
            changes |= {"slice 1m;": "", "proxy_set_header Range $slice_range;": "", "$uri$slice_range": "$uri"}
        # As root nginx would give its workers to a user who may not read what root's tests write.
        user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
        recommended = _recommended(changes)
        (directory / "nginx.conf").write_text(
            _CONFIG.format(user=user, directory=directory, files_port=files_port, root=root, recommended=recommended)
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, or start it again with what it had cached."""
        command = [_program(), "-c", str(self.directory / "nginx.conf"), "-p", str(self.directory)]
        # Not SIGKILL, which would leave its workers.
        self.process = started(command, self.port, self.directory / "stderr", at_our_end=signal.SIGTERM)

    def stop(self) -> None:
        """End it and its workers, at once; more than once is fine."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def asked(self) -> list[tuple[str, str, int, str]]:
        """Method, path, status and what the cache made of it, of each request that has ended."""
        lines = [line.split(" ") for line in (self.directory / "access.log").read_text().splitlines()]
        return [(method, path, int(status), cached) for method, path, status, cached in lines if cached != "-"]


def _program() -> str:
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not found:
        is_missing("nginx is not installed, so nothing was tested behind a real cache")
    return found


@contextmanager
def nginx_cache(root: Path, upstream: str | None = None, *, sliced: bool = True) -> Iterator[Nginx]:
    """A cache before the files below ``root``, or before another server.

    Args:
        root: a directory.
        upstream: the other server's URL, or None.
        sliced: whether objects are fetched in slices, which a server that answers ranges with 200 does not bear.
    """
    directory = Path(tempfile.mkdtemp(prefix="ts-nginx-"))
    try:
        server = Nginx(directory, root, upstream, sliced=sliced)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
