"""A worker that only answers HTTP: stands in for `chronicle worker` where the stack itself is tested.

FAKE_NOT_READY=1 keeps /ready red, FAKE_DIES=1 makes it end at once, FAKE_STUBBORN=1 makes it deaf to SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Face(BaseHTTPRequestHandler):
    """/health, /ready and /env, the last telling what the worker was given."""

    def do_GET(self) -> None:
        """Any path."""
        ready = not os.environ.get("FAKE_NOT_READY")
        body = {"status": "ready" if ready else "starting", "checks": [{"name": "sink", "ok": ready, "detail": "none"}]}
        if self.path == "/env":
            body = {"argv": sys.argv[1:], **{k: v for k, v in os.environ.items() if k.startswith("CHRONICLE_")}}
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_args: object) -> None:
        """Silence."""


if __name__ == "__main__":
    if os.environ.get("FAKE_DIES"):
        sys.exit("fake worker: no wish to live")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if os.environ.get("FAKE_STUBBORN") else lambda *_: os._exit(0))
    print(f"fake worker {os.environ['CHRONICLE_WORKER__NAME']} is up", flush=True)
    HTTPServer(("127.0.0.1", int(os.environ["CHRONICLE_SERVER__PORT"])), Face).serve_forever()
