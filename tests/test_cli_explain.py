"""What ``segue explain`` prints."""

from __future__ import annotations

from segue.cli_explain import SHOWN, lines_of
from segue.serving.requests import ExplainAnswer


def answer(**changes: object) -> ExplainAnswer:
    importances = [0.5, -0.1, 0.25, 0.04, 0.03, 0.02, 0.01, 0.0, -0.7]
    events = [
        {"item_id": f"i{place}", "title": f"Title {place}", "place": place, "importance": importance}
        for place, importance in enumerate(importances)
    ]
    return ExplainAnswer.model_validate(
        {
            "item_id": "i9", "title": "Nine", "sentence": "Because you watched Title 0.", "basis": "history",
            "score": -1.0, "events": events, "context_importance": None, "theme": None, "path": "generative",
            "bundle": "b" * 64, "deployment": 3, "arm": None, "fallback": None, "unknown_items": [],
            "latency_ms": 1.0, "warnings": [],
        }
        | changes
    )  # fmt: skip


def test_it_says_which_path_it_explains_and_shows_what_speaks_for_the_item() -> None:
    first, sentence, header, *rows = lines_of(answer())
    assert "the path generative of bundle bbbbbbbbbbbb" in first
    assert "could not" not in first
    assert sentence == "Because you watched Title 0."
    assert "score lost" in header
    assert [row.split()[-1] for row in rows[:SHOWN]] == ["0", "2", "3", "4", "5"]
    assert rows[SHOWN].strip() == "and 1 more that speak for it, 2 against it (--json lists all)"


def test_a_fallback_is_said_first_and_warnings_last() -> None:
    lines = list(
        lines_of(answer(path="cascade", fallback="generative: it lacks head.mlp", warnings=["careful"]))
    )
    assert lines[0].endswith("because another could not: generative: it lacks head.mlp")
    assert lines[-1] == "warning: careful"
    none = list(lines_of(answer(events=[])))
    assert len(none) == 2
