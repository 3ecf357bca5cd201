"""A local stand-in for the model providers: their wire formats on 127.0.0.1, with invented answers and real counting.

The official SDKs talk to it unchanged, so the demo and the tests need neither a key nor the internet, and can prove how
many provider calls really happened.

    server.py      listens, waits, fails on request, and counts
    connection.py  HTTP/1.1
    endpoints.py   who answers which path: the wire formats of `tallystick.provider_answers`, and a home-made one

Answering is pure: a call goes in, the finished bytes of a reply come out, and the server alone decides when they are
sent.
"""

from __future__ import annotations

from tallystick.demo.provider_server.server import ProviderServer, ServedRequest

__all__ = ["ProviderServer", "ServedRequest"]
