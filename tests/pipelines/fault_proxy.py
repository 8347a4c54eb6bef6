"""A proxy on loopback between a store and its server: planned faults in, those faults on the wire out."""

from __future__ import annotations

import http.client
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from urllib.parse import urlsplit


class Fault(Enum):
    """What happens to one request instead of passing."""

    BUSY = "answered 503 SlowDown, never forwarded"
    BROKEN = "answered 500 InternalError, never forwarded"
    BAD_GATEWAY = "answered 502 without a word, never forwarded"
    TIMED_OUT = "answered 504 without a word, never forwarded"
    DENIED = "answered 403 ExpiredToken, never forwarded"
    RESET = "the connection reset, never forwarded"
    LOST_ANSWER = "forwarded, and the connection closed before the answer"
    STALLED = "forwarded, half of the answer sent, and then nothing more"
    SHORT = "forwarded, half of the answer sent, and the connection closed"
    FLIPPED = "forwarded, one bit of the answer changed"


_ANSWERS = {
    Fault.BUSY: (503, b"<Error><Code>SlowDown</Code></Error>"),
    Fault.BROKEN: (500, b"<Error><Code>InternalError</Code></Error>"),
    Fault.BAD_GATEWAY: (502, b""),
    Fault.TIMED_OUT: (504, b""),
    Fault.DENIED: (403, b"<Error><Code>ExpiredToken</Code></Error>"),
}


@dataclass(slots=True)
class Plan:
    """Faults for the next requests of one method, in order; `fired` tells which have happened.

    Attributes:
        method: the requests meant.
        path: what their path, with its query, holds.
        faults: for the next of them.
        always: for those after that; None lets them pass.
    """

    method: str = "PUT"
    path: str = ""
    faults: list[Fault] = field(default_factory=list)
    always: Fault | None = None
    fired: list[Fault] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            if method != self.method or self.path not in path:
                return None
            fault = self.faults.pop(0) if self.faults else self.always
            if fault is not None:
                self.fired.append(fault)
            return fault


@contextmanager
def fault_proxy(
    endpoint_url: str, changed: Callable[[str, bytes], bytes] = lambda path, data: data
) -> Iterator[tuple[str, Plan]]:
    """The proxy's own endpoint, and the plan it follows; every answer's body is what `changed` makes of it."""
    upstream = urlsplit(endpoint_url).netloc
    plan, over = Plan(), Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = plan.next_fault(self.command, self.path)
            if fault in _ANSWERS:
                status, text = _ANSWERS[fault]
                self.reply(status, [], text)
                return
            if fault is Fault.RESET:
                # To linger for no time at all sends a reset and not an orderly end.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            connection = http.client.HTTPConnection(upstream, timeout=20)
            try:
                # The host stays the one that was signed.
                connection.request(self.command, self.path, body, dict(self.headers.items()))
                answer = connection.getresponse()
                data = changed(self.path, answer.read())
            except (OSError, http.client.HTTPException):  # there is no server behind us just now
                self.close_connection = True
                return
            finally:
                connection.close()
            if fault is Fault.LOST_ANSWER:
                self.close_connection = True
                return
            if fault is Fault.FLIPPED:
                data = data[:-1] + bytes([data[-1] ^ 0x10])
            self.reply(answer.status, answer.getheaders(), data, fault)

        def reply(
            self, status: int, headers: list[tuple[str, str]], data: bytes, fault: Fault | None = None
        ) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            said = dict((name.lower(), value) for name, value in headers).get("content-length")
            length = said if self.command == "HEAD" and said else str(len(data))  # of what a GET would bring
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault in (Fault.SHORT, Fault.STALLED):
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                if fault is Fault.STALLED:
                    over.wait(60)
                self.close_connection = True
                return
            self.wfile.write(data)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", plan
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
