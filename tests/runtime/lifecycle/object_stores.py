"""Servers that speak the object stores' own HTTP: S3 and Google's XML interface, Azure's Blob service, and the model hub.

`Shelf` is what they serve and how they misbehave; `serving(S3, shelf)` gives the address.
"""

import hashlib
import http.server
import json
import threading
import urllib.parse
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import ClassVar
from xml.sax.saxutils import escape

MODIFIED = "Fri, 20 Nov 2026 10:00:00 GMT"


@dataclass
class Shelf:
    """Files by path in their bucket. `cut`: bytes after which the connection of a download is dropped, `cuts` times.
    `refuse`: status of every answer. `change`: called before each download. `whole`: ranges are not understood."""

    files: dict[str, bytes]
    cut: int = 0
    cuts: int = 0
    refuse: int = 0
    refusals: int = 10**9
    change: object = None
    whole: bool = False
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def downloads(self):
        """The ranges that were asked for, `""` for the whole."""
        return [headers.get("range", "") for method, path, headers in self.asked if method == "GET" and path in self.files]


def etag(data):
    return '"' + hashlib.md5(data).hexdigest() + '"'


class Handler(http.server.BaseHTTPRequestHandler):
    """What all have in common: objects with ranges and conditions."""

    protocol_version = "HTTP/1.1"
    shelf: Shelf
    codes: ClassVar[dict[int, str]] = {403: "AccessDenied", 404: "NoSuchKey", 412: "PreconditionFailed"}

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer(head=False)

    def answer(self, head):
        shelf, url = self.shelf, urllib.parse.urlsplit(self.path)
        path, query = self.object_path(urllib.parse.unquote(url.path)), dict(urllib.parse.parse_qsl(url.query))
        headers = {name.lower(): value for name, value in self.headers.items()}
        shelf.asked.append((self.command, path, headers))
        if shelf.refuse and shelf.refusals > 0:
            shelf.refusals -= 1
            self.send(shelf.refuse, self.error_body(shelf.refuse), head)
        elif self.listing(path, query):
            self.send(200, self.list_body(query.get("prefix", "")), head, {"content-type": "application/xml"})
        elif path not in shelf.files:
            self.send(404, self.error_body(404), head)
        else:
            self.send_object(path, headers, head)

    def send_object(self, path, headers, head):
        shelf = self.shelf
        if not head and shelf.change is not None:
            shelf.change(shelf)
        data = shelf.files[path]
        tag = etag(data)
        if headers.get("if-match", tag) != tag:
            self.send(412, self.error_body(412), head)
            return
        known, status, begin, end = self.object_headers(tag), 200, 0, len(data)
        if "range" in headers and not shelf.whole:
            first, _, last = headers["range"].removeprefix("bytes=").partition("-")
            status, begin, end = 206, int(first), min(int(last) + 1, len(data)) if last else len(data)
            known["content-range"] = f"bytes {begin}-{end - 1}/{len(data)}"
        drop = None
        if not head and shelf.cuts and end - begin > shelf.cut:
            shelf.cuts -= 1
            drop = shelf.cut
        self.send(status, data[begin:end], head, known, drop)

    def send(self, status, body, head, headers=None, drop=None):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            with suppress(BrokenPipeError, ConnectionResetError):  # the client has heard enough
                self.wfile.write(body[:drop])
        if drop is not None:
            self.close_connection = True

    def object_headers(self, tag):
        return {"etag": tag, "last-modified": MODIFIED, "accept-ranges": "bytes", "content-type": "application/octet-stream"}

    def object_path(self, path):
        return path.lstrip("/").partition("/")[2]  # after the bucket

    def listing(self, path, query):
        return "list-type" in query

    def error_body(self, status):
        code = self.codes.get(status, "InternalError")
        return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()

    def list_body(self, prefix):
        entries = "".join(
            f"<Contents><Key>{escape(path)}</Key><LastModified>2026-11-20T10:00:00.000Z</LastModified><ETag>{escape(etag(data))}</ETag>"
            f"<Size>{len(data)}</Size></Contents>"
            for path, data in sorted(self.shelf.files.items())
            if path.startswith(prefix)
        )
        return f'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>'.encode()


class S3(Handler):
    """Path-style requests, as to MinIO."""


class Google(Handler):
    """The XML interface; every object has a generation."""

    def object_headers(self, tag):
        return super().object_headers(tag) | {"x-goog-generation": "1"}


class Azure(Handler):
    """The Blob service, which abfss:// accounts answer too."""

    codes: ClassVar[dict[int, str]] = {403: "AuthorizationFailure", 404: "BlobNotFound", 412: "ConditionNotMet"}

    def listing(self, path, query):
        return query.get("comp") == "list"

    def object_headers(self, tag):
        return super().object_headers(tag) | {"x-ms-version": "2025-01-05", "x-ms-blob-type": "BlockBlob"}

    def list_body(self, prefix):
        entries = "".join(
            f"<Blob><Name>{escape(path)}</Name><Properties><Last-Modified>{MODIFIED}</Last-Modified><Etag>{escape(etag(data))}</Etag>"
            f"<Content-Length>{len(data)}</Content-Length><Content-Type>application/octet-stream</Content-Type><BlobType>BlockBlob</BlobType></Properties></Blob>"
            for path, data in sorted(self.shelf.files.items())
            if path.startswith(prefix)
        )
        return f'<?xml version="1.0"?><EnumerationResults><Blobs>{entries}</Blobs><NextMarker/></EnumerationResults>'.encode()


class Hub(Handler):
    """The hub: a listing as JSON, files under `resolve`, large ones by redirect to another address with their own headers."""

    def answer(self, head):
        path = urllib.parse.unquote(self.path)
        if path.startswith("/api/models/") and not self.shelf.refuse:
            siblings = [{"rfilename": name} for name in [*self.shelf.files, "README.md"]]
            self.send(200, json.dumps({"siblings": siblings}).encode(), head, {"content-type": "application/json"})
        elif "/resolve/" in path and self.object_path(path) in self.shelf.files and not self.shelf.refuse:
            data = self.shelf.files[self.object_path(path)]
            where = f"http://{self.headers['host']}/cdn/{urllib.parse.quote(self.object_path(path))}"
            linked = {"location": where, "x-linked-size": str(len(data)), "x-linked-etag": etag(data), "etag": '"of-the-redirect"'}
            self.send(302, b"", head, linked)
        else:
            super().answer(head)

    def object_path(self, path):
        return path.removeprefix("/cdn/") if path.startswith("/cdn/") else path.partition("/resolve/")[2].partition("/")[2]

    def listing(self, path, query):
        return False


@contextmanager
def serving(kind, shelf):
    handler = type("Served", (kind,), {"shelf": shelf})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
