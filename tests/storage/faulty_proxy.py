"""An HTTP proxy before an S3 server that breaks chosen requests in the ways that networks and servers do."""

import http.client
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NoReturn

ALWAYS = 1_000_000
FOREVER = 60  # seconds; longer than any time-out in the tests
CODES = {400: "RequestTimeout", 403: "AccessDenied", 404: "NoSuchKey", 409: "OperationAborted", 500: "InternalError"}
CODES |= {502: "BadGateway", 503: "SlowDown"}


@dataclass
class Fault:
    """What to do with the next `times` requests of `method` whose path and query hold `part`."""

    kind: str  # "500", "502", "503", reset, lost, truncate, stall, stall-body, short, corrupt, error-in-200, html
    times: int = 1
    method: str = ""
    part: str = ""

    def meets(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method in ("", method) and self.part in path


@dataclass
class FaultyProxy:
    """Serves on 127.0.0.1:`port` while its block lasts."""

    upstream: str
    tls: ssl.SSLContext | None = None
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    injected: int = 0

    def __enter__(self) -> "FaultyProxy":
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *arguments: _Handler(self, *arguments))
        self._server.daemon_threads, self._server.block_on_close = True, False
        if self.tls:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def fail(self, kind: str, times: int = 1, method: str = "", part: str = "") -> None:
        self.faults.append(Fault(kind, times, method, part))

    def take(self, method: str, path: str) -> str | None:
        """The fault that this request meets, which has then happened once."""
        with self._lock:
            self.seen.append((method, path))
            for fault in self.faults:
                if fault.meets(method, path):
                    fault.times -= 1
                    self.injected += 1
                    return fault.kind
        return None

    def stall(self) -> None:
        self._closing.wait(FOREVER)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, proxy: FaultyProxy, *arguments) -> None:
        self.proxy = proxy
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None: ...

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client has gone, as it should in some tests
            self.close_connection = True

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.proxy.take(self.command, self.path)
        if kind in FAULTS:
            FAULTS[kind](self)
        elif kind is not None and kind.isdigit():
            self._answer(int(kind), _error(CODES[int(kind)]))
        else:
            self._relay(body, kind)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _relay(self, body: bytes, kind: str | None) -> None:
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=FOREVER)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            data = answer.read()
        finally:
            upstream.close()
        if kind == "lost":
            self.reset()
        headers = {
            name: value for name, value in answer.getheaders() if name.lower() not in ("transfer-encoding", "date")
        }
        if kind == "corrupt":
            data = bytes([data[0] ^ 1 << self.proxy.injected % 8]) + data[1:]  # another bit each time
        if kind == "short":
            data = data[: len(data) // 2]
        half = len(data) // 2 if kind in ("truncate", "stall-body") else len(data)
        self._answer(answer.status, data[:half], headers, len(data))
        if kind == "stall-body":
            self.proxy.stall()
        if kind in ("truncate", "stall-body"):
            self.close_connection = True

    def _answer(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response_only(status)
        sent = headers if headers is not None else {"Content-Type": "application/xml"}
        for name, value in sent.items():
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
            self.wfile.flush()

    def reset(self) -> NoReturn:
        """Close with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        raise ConnectionResetError

    def stall(self) -> None:
        self.proxy.stall()
        self.close_connection = True

    def html(self) -> None:
        self._answer(200, b"<html>a login page</html>", {"Content-Type": "text/html"})

    def error_in_200(self) -> None:
        self._answer(200, _error("InternalError"))


FAULTS: dict[str | None, Callable[[_Handler], None]] = {
    "reset": _Handler.reset,
    "stall": _Handler.stall,
    "html": _Handler.html,
    "error-in-200": _Handler.error_in_200,
}


def _error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected</Message></Error>'.encode()
