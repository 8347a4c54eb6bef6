"""A proxy on loopback between a store and its server: planned faults in, those faults on the wire out."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import urlsplit


class Fault(Enum):
    """What happens to one request instead of passing."""

    BUSY = "answered 503 SlowDown, never forwarded"
    LOST_ANSWER = "forwarded, and the connection closed before the answer"


@dataclass(slots=True)
class Plan:
    """Faults for the next requests of one method, in order; `fired` tells which have happened."""

    method: str = "PUT"
    faults: list[Fault] = field(default_factory=list)
    fired: list[Fault] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def next_fault(self, method: str) -> Fault | None:
        with self.lock:
            if method != self.method or not self.faults:
                return None
            self.fired.append(self.faults.pop(0))
            return self.fired[-1]


@contextmanager
def fault_proxy(endpoint_url: str) -> Iterator[tuple[str, Plan]]:
    """The proxy's own endpoint, and the plan it follows."""
    upstream = urlsplit(endpoint_url).netloc
    plan = Plan()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = plan.next_fault(self.command)
            if fault is Fault.BUSY:
                self.reply(503, [], b"<Error><Code>SlowDown</Code></Error>")
                return
            connection = http.client.HTTPConnection(upstream, timeout=20)
            # The host stays the one that was signed.
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            if fault is Fault.LOST_ANSWER:
                self.close_connection = True
                return
            self.reply(answer.status, answer.getheaders(), data)

        def reply(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_HEAD = do_DELETE = forward

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", plan
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
