"""A hub on loopback with the three endpoints that the real client uses, and faults to switch on.

It answers the three requests of huggingface_hub: the list of a revision's files, a file's headers
(HEAD), and its bytes (GET, whole or from an offset).
"""

import contextlib
import dataclasses
import hashlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus

COMMIT = "1e0d4f3028acbffb47fe933cea64619c5ec1a002"


@dataclasses.dataclass
class FakeHub:
    """The hub's contents and its faults."""

    files: dict[str, bytes]
    repository: str = "openai-community/openai-gpt"
    large: frozenset[str] = frozenset({"model.safetensors", "pytorch_model.bin"})
    commit: str = COMMIT  # of the only branch, main
    refuse: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
    """Status and error code of every answer of a kind: `api`, `HEAD` or `GET`."""
    refusals: int = -1  # how many answers are refused; -1 for all
    cut: int | None = None  # bytes of a body after which the connection is closed
    cuts: int = -1  # how many bodies are cut; -1 for all
    forgetful: bool = False  # whether the Range header is ignored
    spared: str = ""  # a file that is never cut
    mute: float = 0.0  # seconds before every answer
    hang: float = 0.0  # seconds for which a cut body's connection stays open
    pace: float = 0.0  # seconds before each 64 KiB
    swapped: dict[str, bytes] = dataclasses.field(default_factory=dict)  # wrong bytes of a file
    api: str | None = None  # text sent in place of the list of files
    asked: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # method and path
    address: str = ""

    def etag(self, name: str) -> str:
        """Return the SHA-256 of a large file, else git's id."""
        data = self.files[name]
        if name in self.large:
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()

    def bytes_to_send(self, body: bytes) -> int:
        """Return how many bytes of a body are sent; a cut is counted."""
        if self.cut is None or not self.cuts or len(body) <= self.cut:
            return len(body)
        self.cuts -= 1
        return self.cut


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> FakeHub:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.hub.asked.append((self.command, self.path))
        time.sleep(self.hub.mute)
        path = self.path.split("?")[0]
        kind = "api" if path.startswith("/api/") else self.command
        if (refusal := self.hub.refuse.get(kind)) and self.hub.refusals:
            self.hub.refusals -= 1
            self._refuse(*refusal)
        elif path == "/":
            self._send(b"the hub", {})
        elif kind == "api":
            self._list(path.removeprefix("/api/models/"))
        else:
            self._file(path)

    def _list(self, path: str) -> None:
        repository, _, revision = path.partition("/revision/")
        if repository != self.hub.repository:
            return self._refuse(404, "RepoNotFound")
        if revision not in {"main", self.hub.commit}:
            return self._refuse(404, "RevisionNotFound")
        siblings = [{"rfilename": name} for name in self.hub.files]
        listed = {"id": repository, "sha": self.hub.commit, "siblings": siblings}
        text = json.dumps(listed) if self.hub.api is None else self.hub.api
        return self._send(text.encode(), {"Content-Type": "application/json"})

    def _file(self, path: str) -> None:
        repository, _, rest = path.removeprefix("/").partition("/resolve/")
        name = rest.partition("/")[2]
        if repository != self.hub.repository:
            return self._refuse(404, "RepoNotFound")
        if name not in self.hub.files:
            return self._refuse(404, "EntryNotFound")
        headers = {"ETag": f'"{self.hub.etag(name)}"', "X-Repo-Commit": self.hub.commit}
        if name in self.hub.large:
            headers["X-Linked-Etag"] = headers["ETag"]
            headers["X-Linked-Size"] = str(len(self.hub.files[name]))
        return self._send(self.hub.swapped.get(name, self.hub.files[name]), headers)

    def _refuse(self, status: int, code: str) -> None:
        self._send(b"", {"X-Error-Code": code} if code else {}, status)

    def _send(self, body: bytes, headers: dict[str, str], status: int = HTTPStatus.OK) -> None:
        start = 0
        if "Range" in self.headers and not self.hub.forgetful:
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            status = HTTPStatus.PARTIAL_CONTENT
            headers = headers | {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body) - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            spared = "/resolve/" not in self.path or self.path.endswith(self.hub.spared or "/")
            self._body(body[start:], cut=not spared)

    def _body(self, body: bytes, *, cut: bool) -> None:
        whole = len(body)
        body = body[: self.hub.bytes_to_send(body)] if cut else body
        for start in range(0, len(body), 1 << 16):
            time.sleep(self.hub.pace)
            self.wfile.write(body[start : start + (1 << 16)])
        if len(body) < whole:
            self.close_connection = True
            self.wfile.flush()
            time.sleep(self.hub.hang)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    hub: FakeHub

    def handle_error(self, *_: object) -> None: ...


@contextlib.contextmanager
def served(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve `hub` on a free port of loopback; its address is `hub.address`."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.hub = hub
        hub.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
