"""A model hub on this machine, that answers as huggingface.co does: with files, or refusals."""

import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFUSALS: dict[str, tuple[int, dict[str, str]]] = {
    "gated": (401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}),
    "denied": (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Not in the list."}),
    "private": (401, {"X-Error-Code": "RepoNotFound"}),
    "missing": (404, {"X-Error-Code": "RepoNotFound"}),
    "expired": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "forbidden": (403, {}),
    "other": (404, {"X-Error-Code": "EntryNotFound"}),
    "broken": (520, {}),
}
"""What it says to any question about a repository of that owner; to unknown ones, nothing.

520 stands for all failures of a hub: its client gives up on 500 and 503 only after 23 s."""

_FILE = re.compile(rf"/(?P<repo>[^/]+/[^/]+)/resolve/(?:main|{COMMIT})/(?P<path>.+)")
_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?P<rest>/.*)?")


@dataclass
class LocalHub:
    """Its address, and the repositories that it has."""

    endpoint: str = ""
    folders: dict[str, Path] = field(default_factory=dict)

    def answer(self, path: str) -> tuple[int, Mapping[str, str], bytes] | None:
        """Status, headers and body; None hangs up."""
        path = path.partition("?")[0]
        owner = path.removeprefix("/api/models").split("/")[1]
        if owner in REFUSALS:
            return (*REFUSALS[owner], b"")
        found = _FILE.fullmatch(path) or _API.fullmatch(path)
        folder = self.folders.get(found["repo"]) if found else None
        if found is None or folder is None:
            return None
        if "path" in found.groupdict():
            return _file(folder, found["path"])
        return _about(found["repo"], folder, found["rest"] or "")


def _file(folder: Path, path: str) -> tuple[int, Mapping[str, str], bytes]:
    headers = {"X-Repo-Commit": COMMIT}
    if not (folder / path).is_file():
        return 404, headers | {"X-Error-Code": "EntryNotFound"}, b""
    body = (folder / path).read_bytes()
    return 200, headers | {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'}, body


def _about(repo: str, folder: Path, rest: str) -> tuple[int, Mapping[str, str], bytes]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = [file.relative_to(folder).as_posix() for file in files]
    content: object
    if rest.startswith("/tree/"):
        content = [
            {"type": "file", "path": name, "size": file.stat().st_size, "oid": name}
            for name, file in zip(names, files, strict=True)
        ]
    else:
        content = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


@contextlib.contextmanager
def local_hub() -> Iterator[LocalHub]:
    hub = LocalHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(with_body=True)

        def do_HEAD(self) -> None:
            self._reply(with_body=False)

        def _reply(self, *, with_body: bool) -> None:
            answer = hub.answer(self.path)
            if answer is None:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            """Nothing on the test's output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
