"""nginx as an unprivileged child in a temporary directory, on a unix socket; for speed it logs nothing."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from benchmarks.children import Child, find_program

__all__ = ["start_nginx"]

_CONFIGURATION = """
daemon off;
master_process off;
{user}
pid {directory}/nginx.pid;
error_log {directory}/nginx.error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    client_body_temp_path {directory}/nginx.body;
    proxy_temp_path {directory}/nginx.proxy;
    fastcgi_temp_path {directory}/nginx.fastcgi;
    uwsgi_temp_path {directory}/nginx.uwsgi;
    scgi_temp_path {directory}/nginx.scgi;
    {tuning}
    server {{
        listen unix:{directory}/nginx.sock;
        root {directory}/files;
        {location}
    }}
}}
"""


def start_nginx(directory: Path, *, tuning: str = "", location: str = "") -> Child:
    """Serve ``directory/files``, which is made, on ``directory/nginx.sock``.

    Args:
        directory: where everything of it lives.
        tuning: further directives for all servers.
        location: further directives for this one.

    Raises:
        NotStarted: it is not installed, or cannot.
    """
    program = find_program("nginx")
    (directory / "files").mkdir(parents=True)
    user = f"user {pwd.getpwuid(0).pw_name};" if os.getuid() == 0 else ""
    configuration = directory / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(directory=directory, user=user, tuning=tuning, location=location))
    log = str(directory / "nginx.error.log")
    command = [program, "-p", str(directory), "-c", str(configuration), "-e", log]
    child = Child(command, directory / "nginx.sock", directory)
    child.wait_until_listening()
    return child
