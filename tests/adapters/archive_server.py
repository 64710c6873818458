"""A real HTTP server on loopback that serves a folder as Binance's archive does, and misbehaves on request."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class ArchiveServer:
    """Serves a folder, with byte ranges; `cut` ends a connection after so many bytes, `fail` answers 503."""

    def __init__(self, root: Path) -> None:
        self.requests: list[tuple[str, str | None]] = []
        self.cut: list[int] = []
        self.fail: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                outer.requests.append((self.path.rsplit("/", 1)[-1], wanted))
                if outer.fail:
                    self.send_error(outer.fail.pop())
                    return
                file = root / self.path.lstrip("/")
                if not file.exists():
                    self.send_error(404)
                    return
                data = file.read_bytes()
                begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
                if begin >= len(data):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(data)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(len(data) - begin))
                self.end_headers()
                body = data[begin:]
                if outer.cut and not file.name.endswith("CHECKSUM"):
                    self.wfile.write(body[: outer.cut.pop()])
                    self.close_connection = True
                    return
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
