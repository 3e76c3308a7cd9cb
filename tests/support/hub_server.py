"""A Hugging Face Hub on the loopback interface, for tests of downloads.

It implements the part of the Hub's protocol that downloads need. `/api/models/{owner}/{repository}` lists the files of
a repository. `/{owner}/{repository}/resolve/{revision}/{file}` answers as https://huggingface.co does for a file in
large-file storage: with the commit, the SHA-256 and the size in headers, and a redirect to the storage, which is
another host and supports ranges. A test sets failures in advance, one per request, and can inspect all requests.
"""

import hashlib
import json
import re
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HostedFile:
    """A file on the hub.

    `gate` is the token that opens its repository, None if anybody may read it. `linked_sha256` is the hash that the
    hub reports; a test may set a wrong one.
    """

    content: bytes
    gate: str | None = None
    linked_sha256: str = ""

    def __post_init__(self) -> None:
        self.linked_sha256 = self.linked_sha256 or hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Request:
    """A request that the server received."""

    method: str
    host: str
    path: str
    range: str | None
    authorization: str | None

    @property
    def is_transfer(self) -> bool:
        """Whether it asks the storage for bytes."""
        return self.method == "GET" and self.path.startswith("/storage/")


@dataclass
class Cut:
    """The end of a transfer after `after` bytes: closed normally, reset, or left hanging."""

    after: int
    how: str = "close"


@dataclass
class HubServer:
    """The server; use it as a context manager. `files` has the keys "owner/repository/file"."""

    files: dict[str, HostedFile] = field(default_factory=dict)
    statuses: deque[int] = field(default_factory=deque)
    """HTTP statuses for the next requests to /resolve/, in this order."""
    cuts: deque[Cut] = field(default_factory=deque)
    """Cuts of the next transfers, in this order."""
    always: int | None = None
    """The HTTP status for every request, except transfers."""
    listing: bytes | None = None
    """The body of every list of files, whatever `files` has."""
    commit: str = COMMIT
    requests: list[Request] = field(default_factory=list)
    hanging: threading.Event = field(default_factory=threading.Event)
    """Set when a transfer reaches a cut that hangs."""

    def __enter__(self) -> "HubServer":
        """Start serving on a free port."""
        hub = self

        class Handler(_Handler):
            server_state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def storage(self) -> str:
        """The URL that files redirect to: another host name of the same server."""
        return f"http://localhost:{self._server.server_port}/storage"

    @property
    def questions(self) -> list[Request]:
        """The requests to the hub itself about a file."""
        return [request for request in self.requests if "/resolve/" in request.path]

    @property
    def transfers(self) -> list[Request]:
        """The requests that asked for bytes."""
        return [request for request in self.requests if request.is_transfer]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        self.server_state.requests.append(
            Request(
                self.command,
                self.headers.get("Host", ""),
                self.path,
                self.headers.get("Range"),
                self.headers.get("Authorization"),
            )
        )
        if self.path.startswith("/storage/"):
            self._storage(self.path.removeprefix("/storage/"))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
            self._resolve(match[1], match[3])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/?]+)(\?.*)?", self.path):
            self._list(match[1])
        else:
            self._empty(404)

    def _list(self, repository: str) -> None:
        hub = self.server_state
        if hub.always:
            self._empty(hub.always)
            return
        prefix = f"{repository}/"
        if hub.listing is not None:
            self._json(hub.listing)
            return
        names = sorted(key.removeprefix(prefix) for key in hub.files if key.startswith(prefix))
        if not names:
            self._empty(401 if self.headers.get("Authorization") is None else 404, {"X-Error-Code": "RepoNotFound"})
            return
        body = json.dumps({"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]})
        self._json(body.encode())

    def _json(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _resolve(self, repository: str, name: str) -> None:
        hub = self.server_state
        if hub.always or hub.statuses:
            self._empty(hub.always or hub.statuses.popleft())
            return
        file = hub.files.get(f"{repository}/{name}")
        known = any(key.startswith(f"{repository}/") for key in hub.files)
        stranger = self.headers.get("Authorization") is None
        if not known:
            # Without a token, the hub does not say whether a repository exists.
            self._empty(401 if stranger else 404, {"X-Error-Code": "RepoNotFound"})
        elif file is None:
            self._empty(404, {"X-Error-Code": "EntryNotFound"})
        elif file.gate and self.headers.get("Authorization") != f"Bearer {file.gate}":
            self._empty(401 if stranger else 403, {"X-Error-Code": "GatedRepo"})
        else:
            self._empty(
                302,
                {
                    "Location": f"{hub.storage}/{repository}/{name}",
                    "X-Repo-Commit": hub.commit,
                    "X-Linked-Etag": f'"{file.linked_sha256}"',
                    "X-Linked-Size": str(len(file.content)),
                },
            )

    def _empty(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _storage(self, key: str) -> None:
        content = self.server_state.files[key].content
        start = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = self.server_state.cuts
        if not cuts:
            self.wfile.write(body)
            return
        cut = cuts.popleft()
        self.wfile.write(body[: cut.after])
        self.wfile.flush()
        if cut.how == "hang":
            self.server_state.hanging.set()
            # Wait until the other side is gone.
            self.connection.recv(1)
        elif cut.how == "reset":
            # With a linger time of zero, closing a socket sends RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True
