"""A way to PostgreSQL that can break at the worst moment: the server has committed, and its answer never arrives."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

# What the server says when it has committed: a CommandComplete message ends in its tag.
_COMMITTED = b"COMMIT\x00"


class BreakingProxy:
    """Passes everything on between clients on a local port and the server's socket."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._breaks_at_commit = threading.Event()
        self.breaks = 0
        self.url = f"postgresql://postgres@127.0.0.1:{self._listener.getsockname()[1]}{parts.path}"
        threading.Thread(target=self._accept, daemon=True).start()

    def break_at_next_commit(self) -> None:
        self._breaks_at_commit.set()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            server.connect(self._server)
            self._pump(client, server, lambda data: False)
            self._pump(server, client, self._breaks)

    def _breaks(self, data: bytes) -> bool:
        if _COMMITTED not in data or not self._breaks_at_commit.is_set():
            return False
        self._breaks_at_commit.clear()
        self.breaks += 1
        return True

    def _pump(self, source: socket.socket, target: socket.socket, breaks: Callable[[bytes], bool]) -> None:
        def run() -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65_536):
                    if breaks(data):
                        break
                    target.sendall(data)
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

        threading.Thread(target=run, daemon=True).start()
