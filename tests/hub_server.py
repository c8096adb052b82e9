"""A server that speaks the part of the Hugging Face Hub's protocol that models need."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """Repositories in memory, each a commit of files."""

    files: dict[str, bytes]

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization')}/{wanted['name']}"
            self._json({"url": f"http://{self.headers['Host']}/{name}"})
        elif self.path == "/api/validate-yaml":
            self._json({"warnings": [], "errors": []})
        elif "/preupload/" in self.path:
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": f["path"], **plain} for f in json.loads(body)["files"]]
            self._json({"files": files})
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.files[entry["value"]["path"]] = content
            url = f"http://{self.headers['Host']}/someone/forest/commit/{COMMIT}"
            self._json({"commitUrl": url, "commitOid": COMMIT})
        else:
            self.send_error(404, self.path)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/") and "/tree/" in path:
            self._json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": "0"}
                    for name, content in self.files.items()
                ]
            )
        elif path.startswith("/api/models/"):
            names = [{"rfilename": name} for name in self.files]
            self._json({"id": "someone/forest", "sha": COMMIT, "siblings": names})
        elif "/resolve/" in path:
            self._file(path.split(f"/resolve/{COMMIT}/")[-1])
        else:
            self.send_error(404, self.path)

    do_HEAD = do_GET

    def _file(self, name: str) -> None:
        if name not in self.files:
            self.send_error(404, name)
            return
        content = self.files[name]
        tag = hashlib.sha1(content).hexdigest()
        self._answer(content, {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'})

    def _json(self, content: Any) -> None:
        self._answer(json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _answer(self, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Run a hub; yield its address and the files that it has."""
    files: dict[str, bytes] = {}
    handler = type("OneHub", (Hub,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
