"""What the fork tests run in a process of its own: `python -m tests.acceptance.forking <scenario> <url>`.

Forking the test runner itself would take its threads, plugins and captured output along.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

from tallystick import Tallystick

EVENTS = 40


def record(ts: Tallystick, feature: str, number: int = EVENTS) -> None:
    for _ in range(number):
        event = ts.usage.record(billable="user:1", input_tokens=1, feature=feature)
        # Reading uses connections of its own, which must not be the parent's either.
        assert ts.usage.get(event.id).feature == feature


def in_child(work: Callable[[], None]) -> int:
    """Fork, do the work in the child, and return its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException as error:  # noqa: BLE001
        sys.stderr.write(f"child: {error!r}\n")
        sys.stderr.flush()
    finally:
        os._exit(status)


def wait_for(pids: list[int]) -> None:
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, "a child failed"


def parent_and_children_go_on(url: str) -> None:
    with Tallystick(url) as ts:
        record(ts, "before", 1)
        ts.usage.stats("user:1")
        pids = [in_child(lambda: record(ts, "child")) for _ in range(3)]
        record(ts, "parent")
        wait_for(pids)
        record(ts, "after", 1)


def fork_while_the_writer_is_busy(url: str) -> None:
    with Tallystick(url) as ts:
        stop = threading.Event()
        recorded = [0, 0, 0, 0]

        def work(index: int) -> None:
            while not stop.is_set():
                ts.usage.record(billable="user:1", input_tokens=1, feature="parent")
                recorded[index] += 1

        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            time.sleep(0.02)
            wait_for([in_child(lambda: record(ts, "child", 10))])
        stop.set()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        sys.stdout.write(f"{sum(recorded)}\n")


def a_child_closes_and_the_parent_goes_on(url: str) -> None:
    with Tallystick(url) as ts:
        record(ts, "before", 1)

        def close() -> None:
            record(ts, "child", 5)
            ts.close()

        wait_for([in_child(close)])
        record(ts, "parent", 5)


def ids_of_parent_and_child_differ(url: str) -> None:
    with Tallystick(url) as ts:
        record(ts, "before", 1)
        batch = [{"billable": "user:1", "input_tokens": 1} for _ in range(3_000)]

        def record_batch() -> None:
            assert ts.usage.record_batch(batch).recorded == 3_000

        pids = [in_child(record_batch), in_child(record_batch)]
        record_batch()
        wait_for(pids)


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
