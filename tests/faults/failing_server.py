"""A server of files on this machine, which fails when it is told to."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FailingServer:
    """A server of a folder; `fault` is what it does instead of answering right.

    A status (404, 500), "stops" (a third of the body, and no more), "page" (a page of a
    login for each name) or "whole" (no parts of files). `only` is a pattern of the
    names that it concerns. The first folder of an address is any name, as GDAL keeps
    what it was answered once: ``/first/map.tif`` and ``/second/map.tif`` are one file.
    """

    def __init__(self, folder: Path) -> None:
        self.fault: int | str | None = None
        self.only = ""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.partition("?")[0].lstrip("/").partition("/")[2]
                fault = owner.fault if re.search(owner.only, name) else None
                file = folder / name
                kind, body, status = "application/octet-stream", b"", 200
                if isinstance(fault, int):
                    status = fault
                elif fault == "page":
                    kind, body = "text/html", b"<html>Please sign in</html>"
                elif not file.is_file():
                    status = 404
                else:
                    body = file.read_bytes()
                wanted = re.fullmatch(
                    r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")
                )
                headers = {"Content-Type": kind, "Accept-Ranges": "bytes"}
                if wanted and status == 200 and fault not in ("whole", "page"):
                    first, last = wanted.groups()
                    start = int(first) if first else max(0, len(body) - int(last))
                    stop = min(int(last) + 1, len(body)) if first and last else None
                    end = len(body) if stop is None else stop
                    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
                    status, body = 206, body[start:end]
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                self.wfile.write(body[: len(body) // 3] if fault == "stops" else body)
                self.close_connection = True

            do_HEAD = do_GET

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"


@contextmanager
def serving(folder: Path) -> Iterator[FailingServer]:
    """Serve a folder until the end of the block."""
    made = FailingServer(folder)
    thread = threading.Thread(target=made.http.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.http.shutdown()
        made.http.server_close()
        thread.join()
