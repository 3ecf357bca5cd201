"""Billing drivers as applications write them: one that keeps its books in a folder, and others with a fault each."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tallystick import Tallystick
from tallystick.invoicing.overages import OverageCharge

FOLDER = "GATEWAY_FOLDER"


class FolderGateway:
    """A gateway whose books are files: one for each idempotency key, so that processes share it and it charges once.

    A file "fail" makes it refuse; "die before" and "die after" end the process, before or after it has charged.
    """

    def __init__(self) -> None:
        self.folder = Path(os.environ[FOLDER])
        self.seconds = 0.0

    def charge_overage(self, overage: OverageCharge, idempotency_key: str) -> str:
        self.log(f"charge {idempotency_key}")
        assert idempotency_key == overage.id
        time.sleep(self.seconds)
        if (self.folder / "fail").exists() or (self.folder / f"fail {overage.billable}").exists():
            raise ConnectionError("The gateway is away.")
        self.die("before")
        path = self.folder / f"charge {idempotency_key}"
        if not path.exists():
            path.write_text(str(overage.amount), encoding="utf-8")
        self.die("after")
        return f"ch_{idempotency_key}"

    def log(self, line: str) -> None:
        # One write to the end, with no lock that a fork might leave locked.
        descriptor = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)

    def die(self, when: str) -> None:
        if (self.folder / f"die {when}").exists():
            os.kill(os.getpid(), signal.SIGKILL)


class FindingGateway(FolderGateway):
    """A gateway that can be asked what it has charged."""

    def find_overage(self, idempotency_key: str) -> str | None:
        self.log(f"find {idempotency_key}")
        return f"ch_{idempotency_key}" if (self.folder / f"charge {idempotency_key}").exists() else None


class GatewayOfThisApplication(FolderGateway):
    """A driver that is given the Tallystick it belongs to."""

    def __init__(self, ts: Tallystick) -> None:
        super().__init__()
        self.ts = ts

    def charge_overage(self, overage: OverageCharge, idempotency_key: str) -> str:
        self.log(f"{overage.billable} has {len(self.ts.overages.list(overage.billable))}")
        return super().charge_overage(overage, idempotency_key)


class Wordless:
    """A driver that returns nothing."""

    def charge_overage(self, overage: OverageCharge, idempotency_key: str) -> None:
        pass


class Asynchronous:
    """A driver that nobody would await."""

    async def charge_overage(self, overage: OverageCharge, idempotency_key: str) -> str:
        return idempotency_key


class Demanding:
    """A driver that wants more than it is given."""

    def __init__(self, ts: Tallystick, key: str) -> None:
        pass

    def charge_overage(self, overage: OverageCharge, idempotency_key: str) -> str:
        return idempotency_key
