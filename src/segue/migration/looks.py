"""Looks: what the online evidence said at earlier moments. Pictures are drawn from them; no gate reads them.

One JSON line a figure and moment in ``state/<dataset>/online/looks.jsonl``, appended and never changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from segue.errors import ArtifactError
from segue.migration.evidence import Evidence

LOOKS_FILE: Final = "looks.jsonl"

Figure = tuple[str, str, str | None, str]  # metric, path_a, path_b, slice


class Look(BaseModel):
    """A confidence sequence at one moment. Bounds are null while there are too few users. Other keys are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: datetime
    metric: str
    path_a: str
    path_b: str | None = None
    slice: str = "all"
    estimate: float | None
    low: float | None
    high: float | None
    n: int

    @property
    def figure(self) -> Figure:
        return self.metric, self.path_a, self.path_b, self.slice


def look_of(item: Evidence) -> Look | None:
    """``item`` as a look; None where it is not online evidence, or has no moment."""
    if item.kind != "online" or item.measured_at is None:
        return None
    return Look(
        at=datetime.fromisoformat(item.measured_at),
        metric=item.metric,
        path_a=item.path_a,
        path_b=item.path_b,
        slice=item.slice,
        estimate=item.estimate,
        low=item.low,
        high=item.high,
        n=item.n,
    )


def read_looks(path: Path) -> list[Look]:
    """Oldest first; none where the file is not there. Raises ArtifactError naming file and line."""
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found.append(Look.model_validate(json.loads(line)))
        except ValueError as error:  # of JSON or of pydantic, whose error is one
            told = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise ArtifactError(
                f"{path}, line {number}: {told}; remove the line, or the file: it holds pictures, no evidence"
            ) from error
    return sorted(found, key=lambda look: look.at)


def append_looks(path: Path, evidence: Iterable[Evidence]) -> int:
    """Append what ``evidence`` says now, where it is newer than the figure's last look. The number of new looks."""
    last: dict[Figure, datetime] = {look.figure: look.at for look in read_looks(path)}
    new = [
        look
        for item in evidence
        if (look := look_of(item)) is not None and (look.figure not in last or look.at > last[look.figure])
    ]
    if new:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(look.model_dump_json() + "\n" for look in new))
    return len(new)
