"""Servers that speak just enough of S3 to be wrong in ways that a real one is not: a dictionary in, an endpoint out."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


def listing(keys: list[str], token: int | None = None) -> bytes:
    """The answer to a ListObjectsV2 request; `token` names the next page."""
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>5</Size><ETag>&quot;{i}&quot;</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        for i, key in enumerate(keys)
    )
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token is not None else ""
    return (
        f"<ListBucketResult><Name>b</Name><KeyCount>{len(keys)}</KeyCount><MaxKeys>1000</MaxKeys>"
        f"<IsTruncated>{str(token is not None).lower()}</IsTruncated>{more}{entries}</ListBucketResult>"
    ).encode()


class Handler(BaseHTTPRequestHandler):
    """A bucket `b` that any credentials open, and whose writes are never conditional."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]

    def log_message(self, format: str, *args: object) -> None:
        pass

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/b").lstrip("/")

    def answer(self, status: int, data: bytes = b"") -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self) -> None:
        self.objects[self.key] = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer(200)

    def do_DELETE(self) -> None:
        self.objects.pop(self.key, None)
        self.answer(204)

    def do_POST(self) -> None:
        """Deletion of many, of which this is one."""
        asked = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        keys = re.findall(r"<Key>(.*?)</Key>", asked)
        for key in keys:
            self.objects.pop(key, None)
        gone = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self.answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())

    def do_GET(self) -> None:
        if "list-type=2" in self.path:
            self.list()
        elif self.key in self.objects:
            self.answer(200, self.objects[self.key])
        else:
            self.answer(404)

    def list(self) -> None:
        self.answer(200, listing(sorted(self.objects)))


@contextmanager
def serving(handler: type[Handler]) -> Iterator[str]:
    """The endpoint of a server that answers so."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def careless(objects: dict[str, bytes]) -> type[Handler]:
    """A server of these objects, which writes replace whatever condition they are under."""
    return type("Careless", (Handler,), {"objects": objects})


def endless(pages: int, served: list[int]) -> type[Handler]:
    """A server of so many pages of a thousand names, made as they are asked for; `served` says which were."""

    class Endless(Handler):
        objects: dict[str, bytes] = {}

        def list(self) -> None:
            found = re.search(r"continuation-token=(\d+)", self.path)
            page = int(found.group(1)) if found else 0
            served.append(page)
            names = [f"s/{page:06d}/{i:04d}.dcm" for i in range(1000)]
            self.answer(200, listing(names, page + 1 if page + 1 < pages else None))

    return Endless
