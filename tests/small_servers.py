"""HTTP servers in a thread of the test: of any handler, and a webhook."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on this machine that answers as `handler` does, and logs nothing."""
    quiet = type("Quiet", (handler,), {"log_message": lambda *arguments: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), quiet)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
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
