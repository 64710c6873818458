"""An S3-compatible store on loopback, in a process of its own, that notes the requests which it answers.

`python -m tests.object_store` is the server: moto behind a counter.  What belongs here: starting it, its options, its
notes.  What does not: what is stored there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["BUCKET", "ObjectStoreServer", "Request", "serving"]

BUCKET = "lake"
_NOTES = "/requests-so-far"


class Request(NamedTuple):
    """A request that the store answered."""

    method: str
    path: str


class ObjectStoreServer:
    """The running store."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
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


@contextmanager
def serving(*, conditional_put: bool = True) -> Iterator[ObjectStoreServer]:
    """Run a store with one empty bucket; without conditional put it overwrites whatever it is asked to create."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "tests.object_store", *([] if conditional_put else ["overwriting"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            server = ObjectStoreServer(int(process.stdout.readline()))
            request = urllib.request.Request(f"{server.url}/{BUCKET}", method="PUT")
            urllib.request.urlopen(request, timeout=30).close()
            server.requests()
            yield server
        finally:
            process.kill()


def _serve(*, overwriting: bool) -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, as a real store keeps them

        def log(self, *_args: Any, **_kwargs: Any) -> None:
            return

    answered: list[tuple[str, str]] = []
    store = DomainDispatcherApplication(create_backend_app)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == _NOTES:
            body = json.dumps(answered).encode()
            answered.clear()
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]
        answered.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if overwriting:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        return store(environ, start_response)

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve(overwriting="overwriting" in sys.argv)
