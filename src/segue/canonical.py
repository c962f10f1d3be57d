"""One way to write a value down, so that equal values have equal hashes.

Canonical JSON here means: keys sorted, no white space, UTF-8, no NaN or infinity (RFC 8785 in spirit; floats are
written by Python's shortest round-trip representation, which RFC 8785 also prescribes for IEEE doubles).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """The one text for ``value``. Raises ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short(identity: str) -> str:
    """The first twelve characters of a hash: enough to name it to a person."""
    return identity[:12]
