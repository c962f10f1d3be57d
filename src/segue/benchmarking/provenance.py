"""What a figure needs beside it to be believed: the machine, the commit, the day."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


def processor() -> str:
    """The processor's name as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def commit(folder: Path) -> str | None:
    """The commit that is checked out in ``folder``; None outside a repository."""
    return _git(folder, "rev-parse", "HEAD") or None


def has_changes(folder: Path) -> bool:
    """Whether the checkout at ``folder`` differs from its commit; False outside a repository."""
    return bool(_git(folder, "status", "--porcelain"))


def facts(folder: Path) -> dict[str, Any]:
    """``commit``, ``uncommitted_changes``, ``machine`` and ``date``, of now and of the checkout at ``folder``."""
    return {
        "commit": commit(folder),
        "uncommitted_changes": has_changes(folder),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        },
        "date": datetime.now(UTC).date().isoformat(),
    }


def _git(folder: Path, *arguments: str) -> str:
    found = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return found.stdout.strip()
