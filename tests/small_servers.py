"""Servers of a test: of any handler, a webhook, and one that never answers."""

import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


@contextmanager
def served(handler: type[BaseHTTPRequestHandler], certificate: Path | None = None) -> Iterator[str]:
    """The address of a server on this machine that answers as `handler` does, and logs nothing.

    With a certificate of `certificates.self_signed`, it speaks https.
    """
    quiet = type("Quiet", (handler,), {"log_message": lambda *arguments: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), quiet)
    address = f"http://127.0.0.1:{server.server_port}"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_name("key.pem"))
        server.socket = context.wrap_socket(server.socket, server_side=True)
        address = f"https://localhost:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def webhook(monkeypatch):
    """A webhook that CLIPTEA_WEBHOOK names: the `bodies` that it was sent, and the `status` that it answers."""

    class Webhook(BaseHTTPRequestHandler):
        status, bodies = 200, []

        def do_POST(self):
            self.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(Webhook.status)
            self.end_headers()

    with served(Webhook) as address:
        monkeypatch.setenv("CLIPTEA_WEBHOOK", f"{address}/secret-part")
        yield Webhook


@pytest.fixture
def told(webhook):
    """What a webhook was told."""
    return webhook.bodies


@contextmanager
def silent() -> Iterator[str]:
    """The host and port of a server that takes connections and never answers, like a frozen process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def greeting(words: bytes) -> Iterator[str]:
    """The host and port of a server that says `words` to whoever connects, in place of an answer in HTTP."""

    class Greeter(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(words)
            self.request.recv(10_000)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeter) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
