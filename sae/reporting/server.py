"""A file server for pages of streams, for this machine alone."""

from __future__ import annotations

import argparse
import functools
import http.server
import tempfile
from collections.abc import Callable
from pathlib import Path

from sae.errors import SaeError


def run(options: argparse.Namespace) -> None:
    """The command `serve`: serves a page, or a page of the streams in a folder.

    Raises:
      SaeError: the folder has neither a page nor progressive streams, or as `serve`.
    """
    folder = Path(options.folder)
    if (folder / "index.json").exists() and (folder / "index.html").exists():
        serve(folder, options.port, print)
        return
    from sae.reporting import viewer

    entries, store = viewer.streams(folder, options.checkpoints)
    with tempfile.TemporaryDirectory(prefix="sae-") as place:
        viewer.write(place, entries, store)
        serve(place, options.port, print)


def serve(
    folder: str | Path, port: int = 8000, ready: Callable[[str], object] | None = None
) -> None:
    """Serves a folder until interrupted.

    Args:
      folder: folder of a page.
      port: port of the server; 0 for any that is free.
      ready: function that is called with the address when the server listens.

    Raises:
      SaeError: there is no page in the folder, or the port is taken.
    """
    if not (Path(folder) / "index.html").is_file():
        raise SaeError(f"There is no page in {folder}; write one with `python -m sae show`.")
    handler = functools.partial(_Handler, directory=str(folder))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as error:
        raise SaeError(f"Port {port} cannot be used ({error}); choose another one.") from error
    with server:
        if ready is not None:
            ready(f"http://127.0.0.1:{server.server_address[1]}/")
        server.serve_forever()


class _Handler(http.server.SimpleHTTPRequestHandler):
    # Browsers refuse files without these types, which the system's tables may lack or have wrong.
    extensions_map = {  # noqa: RUF012
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".wasm": "application/wasm",
        ".webp": "image/webp",
        ".json": "application/json",
    }

    def end_headers(self) -> None:
        # Caches would be stale, since a page that is written again has the same names.
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *values: object) -> None:
        pass
