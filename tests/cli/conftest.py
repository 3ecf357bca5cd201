"""What the command line's tests share: an empty folder to run in, and a file of real or equally shaped use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.traces import write_trace


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in an empty folder and without a terminal, so that nothing of this machine is used or counts."""
    for name in (
        "COLUMNS",
        "FORCE_COLOR",
        "GITHUB_ACTIONS",
        "NO_COLOR",
        "PY_COLORS",
        "TERMINAL_WIDTH",
        "TTY_COMPATIBLE",
    ):
        monkeypatch.delenv(name, raising=False)
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    return working


@pytest.fixture(scope="session")
def trace(shared_data: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8,819 requests of a production service; where they are not at hand, 2,000 rows of the same form."""
    real = shared_data / "azure_llm_trace_code.csv" if shared_data is not None else None
    if real is not None and real.exists():
        return real
    return write_trace(tmp_path_factory.mktemp("trace") / "trace.csv", rows=2_000)
