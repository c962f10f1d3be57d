"""The step semantic_id_report on a small workspace, and the check that reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from assets.checks import check_results, check_specs
from segue.artifacts import read_json, read_manifest
from segue.bases import write_base
from segue.data.sequences import Sequences
from segue.encoders.collaborative import cooccurrences
from segue.steps.runner import read_record, run_step
from segue.tokenizers.agreement import co_consumption, prefix_groups
from segue.tokenizers.item_map import ItemMap
from segue.workspace import Workspace
from tests.tokenizers.test_semantic_id_steps import DATASET, PARAMS, provide, seal

STEP = "semantic_id_report"


def histories(last: int) -> Sequences:
    """Four users of six events each; their last two are validation and test, and ``last`` is the test item."""
    items = np.array(
        [[0, 1, 2, 3, 4, last], [4, 5, 6, 7, 8, last], [0, 2, 4, 6, 8, last], [1, 3, 5, 7, 9, last]]
    )
    return Sequences(
        items=items.ravel().astype(np.int32),
        timestamps=np.arange(24, dtype=np.int64),
        offsets=np.arange(0, 25, 6, dtype=np.int64),
        validation_at=np.full(4, 4, dtype=np.int32),
        test_at=np.full(4, 5, dtype=np.int32),
        user_ids=["a", "b", "c", "d"],
    )


def provide_histories(workspace: Workspace, last: int) -> None:
    def write(folder: Path) -> None:
        histories(last).save(folder / "regular")

    seal(workspace, "sequences", write)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    write_base(made, DATASET, {})
    provide(made, range(60), events=100)
    provide_histories(made, 50)
    for step in ("codebook", "item_map", STEP):
        run_step(made, DATASET, step, PARAMS)
    return made


def contents(workspace: Workspace) -> dict[str, str]:
    return {name: one.sha256 for name, one in read_manifest(workspace.step(DATASET, STEP)).files.items()}


def test_it_writes_quality_themes_and_the_page(workspace: Workspace) -> None:
    folder = workspace.step(DATASET, STEP)
    assert set(contents(workspace)) == {"quality.json", "themes.parquet"}
    quality = read_json(folder / "quality.json")
    of_map = read_json(workspace.step(DATASET, "item_map") / "quality.json")
    assert isinstance(quality, dict)
    assert isinstance(of_map, dict)
    assert of_map.items() <= quality.items()
    item_map = ItemMap.load(workspace.step(DATASET, "item_map"))
    assert quality["item_map_id"] == item_map.item_map_id
    window = PARAMS.encoders.collaborative_window
    together = cooccurrences(histories(50).training_part(), 60, window)
    assert quality["co_consumption"] == co_consumption(together, prefix_groups(item_map.codes[:, :2]))
    assert quality["co_consumption"]["pairs"] == 4 * 6  # four training events a user
    assert [len(counts) for counts in quality["items_per_code"]] == [8, 4, 8]
    assert all(sum(counts) == 60 for counts in quality["items_per_code"])
    themes = pl.read_parquet(folder / "themes.parquet")
    top = themes.filter(pl.col("prefix").list.len() == 1)
    assert top["items"].sum() == 60
    assert top["words"].list.len().min() > 0
    record = read_record(workspace, DATASET, STEP)
    page = workspace.reports(DATASET) / "semantic_ids.html"
    assert record["plots"] == [str(page)]
    assert page.is_file()
    assert record["metrics"]["co_consumption_by_depth_1"] == quality["co_consumption"]["by_depth"][0]
    assert (
        read_record(workspace, DATASET, "item_map")["metrics"]["level_1_dead"] == of_map["levels"][0]["dead"]
    )


def test_it_is_deterministic_and_blind_to_validation_and_test(workspace: Workspace) -> None:
    before = contents(workspace)
    run_step(workspace, DATASET, STEP, PARAMS, force=True)
    assert contents(workspace) == before
    provide_histories(workspace, 20)  # other test items
    run_step(workspace, DATASET, STEP, PARAMS)
    assert contents(workspace) == before


def test_the_check_warns_by_the_thresholds_and_blocks_nothing(workspace: Workspace) -> None:
    import dagster as dg

    (spec,) = check_specs(dg.AssetKey([DATASET, STEP]), STEP)
    assert (spec.name, spec.blocking) == ("semantic_id_quality", False)
    lenient = {
        "least_unique_item_rate": 0.0,
        "least_first_level_usage": 0.0,
        "most_excess_collision_rate": 1.0,
    }
    strict = {
        "least_unique_item_rate": 1.0,
        "least_first_level_usage": 0.0,
        "most_excess_collision_rate": 0.0,
    }
    for thresholds, passed in ((lenient, True), (strict, False)):
        params = PARAMS.model_copy(update={"semantic_ids": PARAMS.semantic_ids.model_copy(update=thresholds)})
        run_step(workspace, DATASET, STEP, params)
        (result,) = check_results(workspace, DATASET, STEP)
        assert (result.passed, result.severity) == (passed, dg.AssetCheckSeverity.WARN)
        told = str(result.description)
        assert ("prefix to themselves" in told, "last level alone" in told) == (not passed, not passed)
