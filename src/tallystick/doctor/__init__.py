"""The doctor: recomputes every number from the records that prove it, and says where anything differs."""

from __future__ import annotations

from tallystick.doctor.diagnosis import Diagnosis, examine
from tallystick.doctor.finding import Finding

__all__ = ["Diagnosis", "Finding", "examine"]
