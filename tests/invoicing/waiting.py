"""Bringing threads to wait for one lock of PostgreSQL, in an order that a test decides."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg


def start_and_wait(url: str, number: int, work: Callable[[], object]) -> threading.Thread:
    """Start work in a thread, and return it once so many connections wait for a lock."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(url, autocommit=True) as watching:
        for _ in range(1_000):
            row = watching.execute(query).fetchone()
            if row is not None and row[0] >= number:
                return thread
            time.sleep(0.01)
    raise AssertionError(f"{number} did not come to wait")
