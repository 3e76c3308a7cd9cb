"""A server for this folder on the loopback, with the two headers that a browser needs to run WebAssembly in threads."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class IsolatedHandler(SimpleHTTPRequestHandler):
    """A file server for pages that are cross-origin isolated."""

    def end_headers(self) -> None:
        """Add the two headers to every response."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


if __name__ == "__main__":
    port = sys.argv[1] if len(sys.argv) > 1 else "8000"
    handler = partial(IsolatedHandler, directory=str(Path(__file__).parent))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", int(port)), handler)
    except (OSError, OverflowError, ValueError) as error:
        sys.exit(f"serve.py: cannot serve on port {port} ({error}); use a free one: python serve.py PORT")
    with server, suppress(KeyboardInterrupt):
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()
