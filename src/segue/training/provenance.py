"""Which events a model was trained on, beside its weights: a kept model keeps the answer.

Contender and incumbent are compared fairly only where both have seen the same training part. A retrained contender beside
an incumbent of last month would win by its freshness.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from segue.artifacts import read_json, write_json

FILE = "trained_on.json"


def write_trained_on(folder: Path, sequences_sha256: str) -> None:
    """``sequences_sha256``: the content hash of the artifact ``sequences``."""
    write_json(folder / FILE, {"sequences": sequences_sha256})


def hand_on_trained_on(kept: Path, folder: Path) -> None:
    """Copy the kept model's answer. An older model has none, and then nobody knows."""
    if (kept / FILE).is_file():
        shutil.copyfile(kept / FILE, folder / FILE)


def trained_on(folder: Path) -> str | None:
    """The content hash of the sequences that the model in ``folder`` was trained on; None where nobody knows."""
    value = read_json(folder / FILE) if (folder / FILE).is_file() else {}
    found = value.get("sequences") if isinstance(value, dict) else None
    return None if found is None else str(found)
