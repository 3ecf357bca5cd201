"""What the fork test of overage runs in a process of its own: `python -m tests.invoicing.forking <url>`."""

from __future__ import annotations

import sys

from tallystick import Tallystick
from tests.acceptance.forking import in_child, wait_for
from tests.invoicing.gateway import FolderGateway


def main(url: str) -> None:
    """Use something in a parent whose gateway is busy, and in a child of it; both send what is their own."""
    billing = {"driver": "tests.invoicing.gateway:FolderGateway", "overage_sync_strategy": "immediate"}
    with Tallystick(url, billing=billing) as ts:
        driver = ts._engine.driver
        assert isinstance(driver, FolderGateway)
        driver.seconds = 0.3
        for _ in range(3):
            ts.usage.record(billable="user:1", input_tokens=500)

        def work() -> None:
            ts.usage.record(billable="user:1", input_tokens=500)
            ts.close()

        child = in_child(work)
        ts.usage.record(billable="user:1", input_tokens=500)
        wait_for([child])


if __name__ == "__main__":
    main(sys.argv[1])
