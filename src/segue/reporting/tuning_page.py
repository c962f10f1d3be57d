"""``reports/<dataset>/tuning.html``: what the study tried, what came of it, and which setting mattered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from segue.artifacts import read_json
from segue.reporting.charts import Bar, Line, bar_chart, line_chart
from segue.reporting.render import number, percent, words, write_page

PAGE = "tuning.html"


def write_tuning_page(reports: Path, folder: Path, *, dataset: str, title: str, workers: int) -> Path:
    """Render the page from the artifact ``tuning`` in ``folder``. Returns its path.

    ``workers``: that the study is set to; above 1 the page says that another run may choose otherwise. Raises
    ArtifactError where a file is missing.
    """
    study = read_json(folder / "trials.json")
    settings = read_json(folder / "settings.json")
    assert isinstance(study, dict)
    assert isinstance(settings, dict)
    trials = sorted(study["trials"], key=lambda trial: int(trial["index"]))
    best = next(trial for trial in trials if trial["index"] == study["best"])
    importance: Mapping[str, float] = study.get("importance", {})  # earlier versions wrote none
    return write_page(
        reports / PAGE,
        "tuning.html.j2",
        dataset=dataset,
        title=title,
        lead=_lead(trials, best),
        cards=_cards(trials, best, settings),
        history=_history(trials),
        curves=_curves(trials, best),
        importance=_importance(importance),
        complete=sum(trial["state"] == "complete" for trial in trials),
        names=sorted({name for trial in trials for name in trial["params"]}),
        trials=[_row(trial, best) for trial in trials],
        workers=workers,
    )


def _lead(trials: list[dict[str, Any]], best: dict[str, Any]) -> str:
    first = trials[0]
    tried = "1 trial" if len(trials) == 1 else f"{len(trials)} trials"
    begin = f"{tried}; trial {best['index'] + 1} is the best, with NDCG@10 {number(best['value'], 4)}"
    if first["value"] is None or first is best:
        return f"{begin} on validation." if first is not best else f"{begin}: the settings as they stood."
    return f"{begin} on validation, where the settings as they stood have {number(first['value'], 4)}."


def _cards(
    trials: list[dict[str, Any]], best: dict[str, Any], settings: dict[str, Any]
) -> list[tuple[str, str, str]]:
    pruned = sum(trial["state"] == "pruned" for trial in trials)
    return [
        ("Best NDCG@10", number(best["value"], 4), f"on validation, trial {best['index'] + 1}"),
        ("Trials", str(len(trials)), f"{pruned} pruned for being below the median"),
        ("Best epoch", str(settings["best_epoch"]), f"of {len(best['validation'])} that the best trial ran"),
    ]


def _history(trials: list[dict[str, Any]]) -> Markup:
    """Every trial's value by its number; pruned ones by the best that they reached."""
    complete = [(trial["index"] + 1, trial["value"]) for trial in trials if trial["value"] is not None]
    pruned = [
        (trial["index"] + 1, max(trial["validation"]))
        for trial in trials
        if trial["value"] is None and trial["validation"]
    ]
    best: list[tuple[float, float]] = []
    for at, value in complete:
        best.append((at, max(value, best[-1][1] if best else value)))
    if best and best[-1][0] < trials[-1]["index"] + 1:
        best.append((trials[-1]["index"] + 1, best[-1][1]))
    return line_chart(
        [
            Line("the best so far", best, "strong", steps=True),
            *(
                Line(f"trial {at}: {number(value, 4)}", [(at, value)], "strong", dots=True)
                for at, value in complete
            ),
            *(
                Line(f"trial {at}: pruned at {number(value, 4)}", [(at, value)], "hollow", dots=True)
                for at, value in pruned
            ),
        ],
        caption="Validation NDCG@10 of each trial, and the best so far",
        x_title="trial",
        y_title="NDCG@10",
    )


def _curves(trials: list[dict[str, Any]], best: dict[str, Any]) -> Markup:
    """Validation by epoch; the best trial's stands out and is drawn last."""
    ordered = sorted(trials, key=lambda trial: trial is best)
    return line_chart(
        [
            Line(
                f"trial {trial['index'] + 1}",
                [(epoch, value) for epoch, value in enumerate(trial["validation"], start=1)],
                "strong" if trial is best else "soft",
            )
            for trial in ordered
        ],
        caption="Validation NDCG@10 of each trial by epoch",
        x_title="epoch",
        y_title="NDCG@10",
    )


def _importance(importance: Mapping[str, float]) -> Markup | None:
    if not importance:
        return None
    return bar_chart(
        [Bar(words(name), share, percent(share, 0)) for name, share in importance.items()],
        caption="Share of the differences between trials that each setting explains",
        most=1.0,
        percents=True,
    )


def _row(trial: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    reached = max(trial["validation"], default=None)
    return {
        "number": trial["index"] + 1,
        "state": trial["state"],
        "best": trial is best,
        "value": number(trial["value"] if trial["value"] is not None else reached, 4),
        "epochs": len(trial["validation"]),
        "params": {name: f"{value:.4g}" for name, value in trial["params"].items()},
    }
