"""An S3-compatible store on loopback, in a process of its own, that notes the requests which it answers.

`python -m tests.object_store` is the server: moto behind a counter.  What belongs here: starting it, its options, its
notes.  What does not: what is stored there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["BUCKET", "ObjectStoreServer", "Request", "serving"]

BUCKET = "lake"
_NOTES = "/requests-so-far"
_HOLD, _HELD, _DROP = "/hold-the-next", "/held-now", "/drop-the-held"


class Request(NamedTuple):
    """A request that the store answered."""

    method: str
    path: str


class ObjectStoreServer:
    """The running store."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.url = f"http://{address}:{port}"
        self.options = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "AKIAHUSHHUSH",
            "AWS_SECRET_ACCESS_KEY": "topsecret",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def requests(self) -> list[Request]:
        """Return the requests since the last call."""
        with urllib.request.urlopen(self.url + _NOTES, timeout=30) as answer:
            return [Request(*found) for found in json.load(answer)]

    def count(self) -> Counter[str]:
        """Return how many requests of each method came since the last call."""
        return Counter(request.method for request in self.requests())

    def hold(self, part: str, *, done: bool) -> None:
        """Keep the next PUT of a path with this part from its client: before it is carried out, or `done`, after."""
        self._ask(_HOLD, json.dumps({"part": part, "done": done}))

    def held(self) -> str | None:
        """Return the path of the request that is kept now."""
        found: str | None = json.loads(self._ask(_HELD))
        return found

    def drop(self) -> None:
        """Answer the kept request with an error; one that was not carried out never is.  No other is kept."""
        self._ask(_DROP)

    def _ask(self, path: str, body: str = "") -> bytes:
        request = urllib.request.Request(self.url + path, data=body.encode(), method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            content: bytes = answer.read()
        return content


@contextmanager
def serving(*, conditional_put: bool = True, address: str = "127.0.0.1") -> Iterator[ObjectStoreServer]:
    """Run a store with one empty bucket; without conditional put it overwrites whatever it is asked to create.

    Args:
        conditional_put: whether a key can be taken once only.
        address: of a network interface of this host.
    """
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "tests.object_store", address, *([] if conditional_put else ["overwriting"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            server = ObjectStoreServer(int(process.stdout.readline()), address)
            request = urllib.request.Request(f"{server.url}/{BUCKET}", method="PUT")
            urllib.request.urlopen(request, timeout=30).close()
            server.requests()
            yield server
        finally:
            process.kill()


class _Holder:
    """Keeps one request from its client until it is dropped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: dict[str, Any] | None = None
        self._held: str | None = None
        self._dropped = threading.Event()

    def take(self, path: str, body: bytes) -> bytes | None:
        """Carry out what the test asks; None where the request is not the test's."""
        with self._lock:
            if path == _HOLD:
                self._wanted, self._held = json.loads(body), None
                self._dropped = threading.Event()
            elif path == _DROP:
                self._wanted = self._held = None
                self._dropped.set()
            elif path != _HELD:
                return None
            return json.dumps(self._held).encode()

    def keeps(self, method: str, path: str, *, done: bool) -> bool:
        """Keep the request that was asked for until it is dropped; return whether it was this one."""
        with self._lock:
            wanted = self._wanted
            if wanted is None or self._held or method != "PUT" or wanted["part"] not in path or wanted["done"] != done:
                return False
            self._held = path
            dropped = self._dropped
        dropped.wait()
        return True


def _serve(address: str, *, overwriting: bool) -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, as a real store keeps them

        def log(self, *_args: Any, **_kwargs: Any) -> None:
            return

    answered: list[tuple[str, str]] = []
    store = DomainDispatcherApplication(create_backend_app)

    holder = _Holder()

    def gone(start_response: Any) -> list[bytes]:
        start_response("503 Service Unavailable", [("Content-Length", "0")])
        return [b""]

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path in {_HOLD, _HELD, _DROP}:
            asked = holder.take(path, environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
            start_response("200 OK", [("Content-Length", str(len(asked or b"")))])
            return [asked]
        if environ["PATH_INFO"] == _NOTES:
            body = json.dumps(answered).encode()
            answered.clear()
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]
        answered.append((method, path))
        if overwriting:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if holder.keeps(method, path, done=False):
            return gone(start_response)
        answer = store(environ, start_response)
        # The client hears nothing of what is kept here: it is dead when this goes on.
        holder.keeps(method, path, done=True)
        return answer

    server = make_server(address, 0, application, threaded=True, request_handler=Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve(sys.argv[1], overwriting="overwriting" in sys.argv)
