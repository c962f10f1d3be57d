"""What ``segue status`` says to people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from segue.canonical import short


def told(found: Mapping[str, Any]) -> Iterator[str]:
    """Five lines of what :func:`segue.steps.operations.status` found: stage, arms, shadow, what waits, the last entry."""
    document = found["deployment"]
    scenario = "" if document["scenario"] is None else f", in the scenario {document['scenario']} alone"
    yield f"stage     {document['stage']}{scenario}: revision {document['revision']}, {document['at']}, by {document['actor']}"
    arms = (
        f"{arm['name']} {arm['share']:.1%} {arm['path']} of {short(arm['bundle'])}"
        for arm in document["arms"]
    )
    yield f"serves    {'; '.join(arms)}"
    shadow = document["shadow"]
    yield "shadow    " + (
        "none" if shadow is None else f"{shadow['rate']:.1%} {shadow['path']} of {short(shadow['bundle'])}"
    )
    yield f"waiting   {'; '.join(found['waiting']) or 'nothing waits for approval'}"
    yield f"last      {found['ledger'][-1].strip()}"
