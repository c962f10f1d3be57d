from __future__ import annotations

from pathlib import Path
from typing import Any

from segue.artifacts import write_json
from segue.reporting.charts import Line, line_chart
from segue.reporting.tuning_page import write_tuning_page
from tests.reporting.test_evaluation_page import Wellformed


def trial(index: int, validation: list[float], *, pruned: bool = False, **params: Any) -> dict[str, Any]:
    return {
        "index": index,
        "state": "pruned" if pruned else "complete",
        "value": None if pruned else max(validation, default=None),
        "params": params or {"dropout": 0.1 * (index + 1), "max_length": 100},
        "validation": validation,
    }


TRIALS = [
    trial(0, [0.10, 0.11]),
    trial(1, [0.05], pruned=True),
    trial(2, [0.12, 0.15]),
    trial(3, [0.10, 0.13]),
    trial(4, [0.11, 0.12]),
]


def page(folder: Path, trials: list[dict[str, Any]], *, workers: int = 1, **more: Any) -> str:
    best = max((one for one in trials if one["value"] is not None), key=lambda one: one["value"])
    write_json(
        folder / "trials.json", {"best": best["index"], "value": best["value"], "trials": trials, **more}
    )
    write_json(folder / "settings.json", {"best_epoch": 2})
    written = write_tuning_page(folder, folder, dataset="toys", title="Toys & more", workers=workers)
    html = written.read_text()
    parsed = Wellformed()
    parsed.feed(html)
    assert parsed.open == []
    return html


def test_the_page_tells_what_was_found(tmp_path: Path) -> None:
    html = page(tmp_path, TRIALS, importance={"dropout": 0.75, "max_length": 0.25})
    assert "5 trials; trial 3 is the best, with NDCG@10 0.1500 on validation" in html
    assert "the settings as they stood have 0.1100" in html
    assert html.count("<svg") == 3
    assert "trial 2: pruned at 0.0500" in html
    assert "75\u00a0%" in html
    assert html.count('<tr class="mark">') == 1
    assert "Toys &amp; more" in html
    assert "another run of the same study may choose others" not in html


def test_few_trials_workers_and_an_earlier_versions_study(tmp_path: Path) -> None:
    html = page(tmp_path, TRIALS[:1], workers=3)  # without importance
    assert "1 trial; trial 1 is the best, with NDCG@10 0.1100: the settings as they stood." in html
    assert "too few to tell" in html
    assert "3 workers" in html
    assert "another run of the same study may choose others" in html
    first_pruned = page(tmp_path, [trial(0, [0.01], pruned=True), trial(1, [0.2])])
    assert "2 trials; trial 2 is the best, with NDCG@10 0.2000 on validation." in first_pruned


def test_a_line_is_drawn_to_scale_and_steps_stay_level() -> None:
    drawn = str(
        line_chart(
            [Line("best", [(1, 0.1), (3, 0.3)], steps=True), Line("<dot>", [(2, 0.2)], dots=True)],
            caption="c",
            x_title="trial",
            y_title="value",
        )
    )
    corners = [tuple(map(float, one.split(","))) for one in drawn.split('points="')[1].split('"')[0].split()]
    assert len(corners) == 3
    assert corners[1] == (corners[2][0], corners[0][1])  # level, then up
    middle = float(drawn.split('cx="')[1].split('"')[0]), float(drawn.split('cy="')[1].split('"')[0])
    assert abs(middle[0] - (corners[0][0] + corners[2][0]) / 2) < 0.2
    assert abs(middle[1] - (corners[0][1] + corners[2][1]) / 2) < 0.2
    assert "<dot>" not in drawn
    assert "<svg" in str(line_chart([], caption="none", x_title="x", y_title="y"))
