"""Serves this folder on the loopback, with the two headers without which a browser gives WebAssembly one thread."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class IsolatedHandler(SimpleHTTPRequestHandler):
    """Files, in an environment of their own: what browsers call cross-origin isolated."""

    def end_headers(self) -> None:
        """Add the headers to every answer."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


if __name__ == "__main__":
    port = sys.argv[1] if len(sys.argv) > 1 else "8000"
    handler = partial(IsolatedHandler, directory=str(Path(__file__).parent))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", int(port)), handler)
    except (OSError, OverflowError, ValueError) as error:
        sys.exit(f"serve.py: cannot serve on port {port} ({error}); give a free one: python serve.py PORT")
    with server, suppress(KeyboardInterrupt):
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()
