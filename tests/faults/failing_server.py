"""A server of a folder, in a process of its own, which fails when it is told to.

GDAL holds Python's lock while it waits for some answers, so a server in the same
process would never give them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FailingServer:
    """The server as tests see it.

    The first folder of an address is any name, as GDAL keeps what it was answered once:
    ``/first/map.tif`` and ``/second/map.tif`` are one file.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.told = folder / "fault"
        self.address = address

    def fail(self, fault: int | str, only: str = "") -> None:
        """Fail from now on.

        A status (404, 500), "stops" (a third of the body, and no more), "page" (the
        page of a login for each name) or "whole" (no parts of files), for names that
        match the pattern `only`. "" answers right again.
        """
        self.told.write_text(f"{fault} {only}")


class _Handler(BaseHTTPRequestHandler):
    folder = Path()

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].lstrip("/").partition("/")[2]
        fault, _, only = (self.folder / "fault").read_text().partition(" ")
        fault = fault if re.search(only, name) else ""
        file = self.folder / name
        kind, body, status = "application/octet-stream", b"", 200
        if fault.isdigit():
            status = int(fault)
        elif fault == "page":
            kind, body = "text/html", b"<html>Please sign in</html>"
        elif not file.is_file():
            status = 404
        else:
            body = file.read_bytes()
        headers = {"Content-Type": kind, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted and status == 200 and fault not in ("whole", "page"):
            first, last = wanted.groups()
            start = int(first) if first else max(0, len(body) - int(last))
            stop = int(last) + 1 if first and last else len(body)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
            status, body = 206, body[start:stop]
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 3] if fault == "stops" else body)

    do_HEAD = do_GET

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[FailingServer]:
    """Serve a folder until the end of the block."""
    (folder / "fault").write_text(" ")
    command = [sys.executable, __file__, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield FailingServer(folder, process.stdout.readline().strip())
        finally:
            process.kill()


if __name__ == "__main__":
    _Handler.folder = Path(sys.argv[1])
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()
