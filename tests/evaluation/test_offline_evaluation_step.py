"""The step around the evaluation: what it reads, counts and writes. The paths are stand-ins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segue.artifacts import commit, hash_files, read_json, temporary_folder, write_json
from segue.items import ItemVectors
from segue.migration.evidence import read_evidence
from segue.params import load_params
from segue.protocols import BoundItems
from segue.steps import offline_evaluation
from segue.steps.registry import get
from segue.steps.runner import StepContext
from segue.workspace import Workspace
from tests.reporting.synthetic import CONTENDERS, NoisyOracle, make_items, make_sequences

ITEMS = 40


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in get("offline_evaluation").inputs}
    for folder in found.values():
        folder.mkdir()
    regular, new = make_sequences(50, ITEMS, 12, "u", seed=1), make_sequences(6, ITEMS, 12, "n", seed=2)
    regular.save(found["sequences"] / "regular")
    new.save(found["sequences"] / "new")
    counts = np.bincount(regular.training_part().items, minlength=ITEMS).astype(np.int64)
    make_items(ITEMS, counts).table.write_parquet(found["splits"] / "items.parquet")
    write_json(
        found["splits"] / "splits.json",
        {
            "protocol": "leave_one_out", "users": 61, "items": ITEMS, "interactions": 500,
            "new_users": 6, "replay_users": 5, "tied_last_steps": None, "ordered": True,
        },
    )  # fmt: skip
    vectors = np.random.default_rng(0).normal(size=(ITEMS, 4)).astype(np.float32)
    ItemVectors(vectors, np.ones(ITEMS, dtype=bool), [f"i{i:03d}" for i in range(ITEMS)]).save(
        found["item_map"]
    )
    write_json(found["incumbent"] / "incumbent.json", {"incumbent_id": "a" * 64, "settings": {}})
    write_json(
        found["generative_model"] / "config.json", {"model": "house", "settings": {}, "codebook_id": "c"}
    )
    write_json(found["generative_model"] / "fusion.json", {"dense_weight": 0.5})
    return found


def context_for(
    root: Path, inputs: Mapping[str, Path], output: Path, base: Mapping[str, str | None] | None = None
) -> StepContext:
    workspace = Workspace(root)
    output.mkdir()
    return StepContext(
        workspace=workspace,
        dataset="ml-100k",
        step=get("offline_evaluation"),
        params=load_params(
            workspace,
            "ml-100k",
            [
                "evaluation.list_length=20",
                "evaluation.bootstrap_samples=200",
                "evaluation.composed=[blended]",  # the stand-ins score no items that they are given
            ],
        ),
        inputs=inputs,
        input_hashes=dict.fromkeys(inputs, "0" * 64),
        output=output,
        identity="test",
        base=base or {},
    )


def test_the_step_writes_equal_files_counts_its_reads_and_makes_the_page(
    workspace_root: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    retired = torch.ones(ITEMS, dtype=torch.bool)
    retired[3] = False

    def bound(folder: Path) -> BoundItems:
        return BoundItems(
            codebook_id="c",
            level_sizes=(ITEMS,),
            codes=torch.arange(ITEMS)[:, None],
            vectors=torch.zeros(ITEMS, 4),
            present=torch.ones(ITEMS, dtype=torch.bool),
            active=retired,
        )

    class SeesTheRules(NoisyOracle):
        def recommend(self, requests: Any, k: int, rules: Any) -> Any:
            assert rules.filter_seen
            assert rules.allowed is not None
            assert not rules.allowed[3]
            return super().recommend(requests, k, rules)

        def score_alone(self, requests: Any, items: Any) -> Any:
            return [
                np.full(len(own), float(len(request.history)))
                for own, request in zip(items, requests, strict=True)
            ]

    def paths(*arguments: object) -> dict[str, Any]:
        regular, new = make_sequences(50, ITEMS, 12, "u", seed=1), make_sequences(6, ITEMS, 12, "n", seed=2)
        targets = {
            sequences.user_ids[user]: int(sequences.user(user)[0][position])
            for sequences in (regular, new)
            for user, position in sequences.targets("test")
        }
        return {
            name: SeesTheRules(targets, ITEMS, 0.3, ("beam", "dense"), seed=number)
            for number, name in enumerate(CONTENDERS)
        }

    monkeypatch.setattr(offline_evaluation, "bound_items", bound)
    monkeypatch.setattr(offline_evaluation, "contenders", paths)
    first = context_for(workspace_root, inputs, workspace_root / "first")
    offline_evaluation.run(first)
    assert first.record["test_reads"] == 1
    assert first.record["test_reads_in_all"] == 1
    page = workspace_root / "reports" / "ml-100k" / "evaluation.html"
    assert page.read_text(encoding="utf-8").count("Because you chose") == 6  # three users, two lists each
    assert "its own order was kept" in page.read_text(encoding="utf-8")
    assert "generative/ndcg_at_10" in first.metrics

    write_json(first.workspace.run_record("ml-100k", "offline_evaluation"), first.record)
    second = context_for(workspace_root, inputs, workspace_root / "second")
    offline_evaluation.run(second)
    assert second.record["test_reads_in_all"] == 2
    assert hash_files(first.output) == hash_files(second.output)

    protocol = read_json(first.output / "protocol.json")
    assert isinstance(protocol, dict)
    assert protocol["users"]["all"] == 50
    assert protocol["retired"] == 1
    shares = protocol["blend"]["validation_ndcg@10"]
    assert set(shares) == {"0.25", "0.5", "0.75"}
    chosen = protocol["blend"]["weights"]["generative"]
    assert shares[str(chosen)] == max(shares.values())
    assert first.metrics["blend/generative_weight"] == chosen
    evidence = read_evidence(first.output / "evidence.json")
    assert {item.recipe_a for item in evidence} == {protocol["recipe"]}
    assert {item.dataset for item in evidence} == {"ml-100k"}
    invalid = next(
        item
        for item in evidence
        if (item.metric, item.slice, item.path_a) == ("invalid_rate", "all", "generative")
    )
    assert invalid.estimate is not None
    assert invalid.estimate > 0  # the stand-in shows the retired item, and that is told
    json.dumps(first.metrics)
    pairs = {(item.path_a, item.path_b) for item in evidence if item.slice == "all"}
    assert {("generative", "blended"), ("blended", "cascade"), ("blended", None)} <= pairs
    sources = read_json(first.output / "sources.json")
    assert isinstance(sources, dict)
    assert set(sources["blended"]) <= {"cascade", "generative", "cascade+generative"}

    # A retrained model is measured beside the one that it replaces, which lies in the kept store.
    former = workspace_root / "state" / "ml-100k" / "kept" / "generative_model"
    with temporary_folder(former / "x") as folder:
        write_json(folder / "x.json", 1)
        manifest = commit(
            folder,
            former / "y",
            step="generative_model",
            dataset="ml-100k",
            params_sha256="p",
            inputs={},
            code_version="c",
        )
    (former / "y").rename(former / manifest.content_sha256)
    asked = []

    def load_path(folder: Path, *arguments: object) -> Any:
        asked.append(folder.name)
        return paths()["cascade"]

    monkeypatch.setattr(offline_evaluation, "load_path", load_path)
    third = context_for(
        workspace_root, inputs, workspace_root / "third", {"replaced_model": manifest.content_sha256}
    )
    offline_evaluation.run(third)
    assert asked == [manifest.content_sha256]
    evidence = read_evidence(third.output / "evidence.json")
    assert any((item.path_a, item.path_b) == ("generative", "replaced") for item in evidence)
    assert "the model it replaces" in page.read_text(encoding="utf-8")
