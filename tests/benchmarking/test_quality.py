"""The quality benchmark: all contenders on a tiny world, what it writes, what it repeats and what it reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.render import render
from segue.benchmarking import counted, ensembles, table
from segue.benchmarking.answers import of_heads
from segue.benchmarking.chosen import ChosenSettings, read_settings
from segue.benchmarking.contender import Fit, Fitted
from segue.benchmarking.contenders import CONTENDERS
from segue.benchmarking.quality import Plan
from segue.benchmarking.report import printed, warnings, write_quality
from segue.benchmarking.world import World
from segue.data.context import Vocabulary
from segue.data.sequences import Sequences
from segue.data.settings import ContextFeature
from segue.errors import ConfigurationError
from segue.evaluation.protocol import evaluate_path
from segue.generative.path import path_of
from segue.generative.training import train
from segue.paths import ListRules
from segue.workspace import Workspace
from tests.generative import tiny as generative

from . import tiny

ROW = {"dataset", "model", "head", "seed", "filter_seen", "metric", "value", "low", "high", "parameters"} | {
    "train_seconds",
    "settings_sha256",
    "trials",
    "validation",
}
PAIRED = {"dataset", "a", "b", "filter_seen", "metric", "difference", "low", "high"}


@pytest.fixture(scope="module")
def made() -> World:
    return tiny.world()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quality")


@pytest.fixture(scope="module")
def records(made: World, folder: Path) -> list[dict[str, Any]]:
    """All contenders, two seeds."""
    return tiny.benchmark(folder, made).records()


def test_every_contender_is_judged_once_a_seed_by_the_same_users(records: list[dict[str, Any]]) -> None:
    found = [(record["model"], record["seed"]) for record in records]
    assert len(found) == len(set(found))
    assert {model for model, _ in found} == set(CONTENDERS)
    seeds = {name: [seed for model, seed in found if model == name] for name in CONTENDERS}
    assert seeds.pop("popularity") == seeds.pop("item_knn") == [1]  # nothing of theirs is drawn
    assert all(own == [1, 2] for own in seeds.values())
    assert {len(judged["ranks"]) for record in records for judged in record["judged"]} == {40}


def test_rows_and_pairs_have_what_is_declared(records: list[dict[str, Any]]) -> None:
    rows, paired = table.rows(records), table.paired(records)
    assert all(set(row) >= ROW for row in rows)
    assert all(set(row) >= PAIRED for row in paired)
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    heads = {name: {row["head"] for row in rows if row["model"] == name} for name in CONTENDERS}
    assert heads["house"] == heads["cobra"] == heads["hstu"] == {"served", "beam", "code", "dense"}
    assert heads["tiger"] == heads["sasrec"] == {"served"}
    assert {row["filter_seen"] for row in rows} == {True, False}
    assert all(0 <= row["beam_share"] <= 1 for row in rows if row["model"] == "house")
    assert {(row["a"], row["b"]) for row in paired} >= {
        ("house", name) for name in set(CONTENDERS) - {"house"}
    }


def test_a_paired_difference_is_that_of_the_means_over_seeds(records: list[dict[str, Any]]) -> None:
    paired = table.paired(records)
    means = {
        (row["model"], row["filter_seen"]): row["value"]
        for row in table.means(records)
        if row["head"] == "served" and row["metric"] == "ndcg@10"
    }
    for row in paired:
        if row["metric"] == "ndcg@10":
            expected = means[row["a"], row["filter_seen"]] - means[row["b"], row["filter_seen"]]
            assert row["difference"] == pytest.approx(expected, abs=1e-12)


def test_what_is_finished_is_neither_trained_nor_read_again(
    made: World, folder: Path, records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = json.loads((folder / "test_reads.json").read_text(encoding="utf-8"))
    assert set(reads.values()) == {1}
    assert len(reads) == len(records)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished contender was fitted or judged again")

    monkeypatch.setattr("segue.benchmarking.quality.Benchmark._fit", refuse)
    monkeypatch.setattr(World, "cases", refuse)
    assert tiny.benchmark(folder, made).records() == records
    elsewhere = replace(made, device="cuda", threads=made.threads + 1)
    threads = torch.get_num_threads()
    assert tiny.benchmark(folder, elsewhere).records() == records
    torch.set_num_threads(threads)
    assert json.loads((folder / "test_reads.json").read_text(encoding="utf-8")) == reads


def test_a_lost_record_is_made_again_without_training(
    made: World, folder: Path, records: list[dict[str, Any]]
) -> None:
    for file in (folder / "records").glob("house-1-*.json"):
        file.unlink()
    lines: list[str] = []
    again = tiny.benchmark(folder, made, models=["house"], seeds=(1,))
    again._progress = lines.append
    (record,) = again.records()
    before = next(each for each in records if (each["model"], each["seed"]) == ("house", 1))
    assert not any("epoch 1/1" in line for line in lines)
    assert record["judged"] == before["judged"]
    assert record["train_seconds"] == before["train_seconds"] > 0
    assert record["test_reads_in_all"] == 2  # and it says that it read again


def test_a_table_of_records_says_how_often_test_was_read_by_now(made: World, tmp_path: Path) -> None:
    """What was judged under other settings since was a look at test, too."""

    def reads(half_life_days: float) -> int:
        chosen = replace(tiny.CHOSEN, models={"popularity": {"half_life_days": half_life_days}})
        (record,) = tiny.benchmark(tmp_path, made, chosen, models=["popularity"], seeds=(1,)).records()
        count: int = record["test_reads_in_all"]
        return count

    assert [reads(7.0), reads(30.0), reads(7.0), reads(30.0)] == [1, 2, 2, 2]


def test_judging_by_validation_reads_no_test_target(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    cases = World.cases

    def watched(self: World, part: Any, users: int | None) -> Any:
        asked.append(part)
        return cases(self, part, users)

    monkeypatch.setattr(World, "cases", watched)
    (record,) = tiny.benchmark(
        tmp_path, made, models=["sasrec"], seeds=(1,), part="validation", filter_seen=(True,)
    ).records()
    assert asked == ["validation"]
    assert not (tmp_path / "test_reads.json").exists()
    (own,) = (row for row in table.means([record]) if row["metric"] == "ndcg@10")
    assert own["value"] == pytest.approx(
        record["validation"], abs=1e-6
    )  # epochs are chosen by what is judged


def test_models_are_chosen_without_the_test_part(made: World) -> None:
    assert not made.validated.targets("test")
    assert len(made.validated.targets("validation")) == 40
    some = tiny.world(validation_users=5)
    assert len(some.validated.targets("validation")) == 5
    np.testing.assert_array_equal(
        some.training.items, made.training.items
    )  # who is judged changes no training


def test_a_study_gives_each_model_as_many_trials(made: World, tmp_path: Path) -> None:
    models = ["item_knn", "sasrec", "house"]
    found = tiny.benchmark(
        tmp_path, made, models=models, seeds=(1,), trials=2, part="validation", filter_seen=(True,)
    ).records()
    assert [record["trials"] for record in found] == [2, 2, 2]
    for name in models:
        (study,) = (tmp_path / "studies").glob(f"{name}-*")
        assert len(list(study.glob("trial-*"))) == 2
    again = tiny.benchmark(
        tmp_path, made, models=models, seeds=(1,), trials=2, part="validation", filter_seen=(True,)
    )
    assert again.records() == found


def in_context() -> Sequences:
    """The same walks, of which something is said at every event."""
    plain = generative.sequences(users=40, count=tiny.ITEMS)
    vocabulary = Vocabulary({"area": ContextFeature(kind="category")}, {"area": ("left", "right")})
    said = np.random.default_rng(2).integers(3, size=(len(plain.items), 1)).astype(np.int32)
    return replace(plain, contexts=said, vocabulary=vocabulary)


@pytest.mark.parametrize("context", [False, True], ids=["plain", "context"])
def test_heads_are_those_of_the_paths_that_serve(made: World, context: bool) -> None:
    """One decoding of all heads gives the lists that a path of each head gives."""
    world = tiny.world(in_context()) if context else made
    settings: Any = tiny.CHOSEN.settings(CONTENDERS["house"], world, None)
    bound = world.bound(tiny.CHOSEN.tokenizer_of("house", world))
    model = train(
        world.training, bound, settings, validation=None, checkpoints=None, progress=lambda line: None
    ).model
    assert isinstance(model, torch.nn.Module)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # an epoch is too short for a context to matter
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    path = path_of(model, bound, world.params.decoding, dense_weight=0.4)
    cases = world.cases("validation", None)
    rules = ListRules(filter_seen=True)
    found = of_heads(path)(cases, rules, 10)
    for head, heads in (("served", "fused"), ("code", "code"), ("dense", "dense")):
        own = evaluate_path(path.variant(heads), cases, rules, 10, 16)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found[head].ranks, own.ranks)
    assert found["beam"].beam_share == found["code"].beam_share == 1.0
    assert 0 < found["dense"].beam_share < 1
    if context:
        silent = [replace(request, context={}) for request in cases.requests]
        unheard = of_heads(path)(replace(cases, requests=silent), rules, 10)
        assert (unheard["served"].ranks != found["served"].ranks).any()


class Scorer:
    """Of three requests, by vectors drawn from ``rng``."""

    name = "any"
    known = np.ones(tiny.ITEMS, dtype=bool)

    def __init__(self, rng: np.random.Generator, width: int) -> None:
        self.vectors = rng.normal(size=(tiny.ITEMS, width)).astype(np.float32)
        self.asked = rng.normal(size=(3, width)).astype(np.float32)

    def users(self, requests: Any) -> Any:
        return self.asked, np.ones(3, dtype=bool)

    @property
    def scores(self) -> np.ndarray:
        return self.asked @ self.vectors.T


def ranked(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, axis=1)


def test_a_pair_of_equal_weight_ranks_by_the_sum_of_log_softmaxes() -> None:
    rng = np.random.default_rng(0)
    first, second = Scorer(rng, 4), Scorer(rng, 6)
    both = ensembles.SummedScorer(first, second, 0.5)

    def log_softmax(scorer: Scorer) -> np.ndarray:
        return scorer.scores - np.log(np.exp(scorer.scores).sum(axis=1, keepdims=True))

    expected = log_softmax(first) + log_softmax(second)
    np.testing.assert_array_equal(ranked(both.users([])[0] @ both.vectors.T), ranked(expected))


@pytest.mark.parametrize("best", [2.0, 16.0])
def test_a_trio_is_both_kinds_of_sasrec_and_so_many_times_the_two_towers(
    monkeypatch: pytest.MonkeyPatch, made: World, tmp_path: Path, best: float
) -> None:
    rng = np.random.default_rng(1)
    parts = [Scorer(rng, 4), Scorer(rng, 4), Scorer(rng, 6)]
    by_factor = [0.5 * parts[0].scores + 0.5 * parts[1].scores + best * parts[2].scores]
    monkeypatch.setattr(ensembles, "DensePath", lambda scorer, items: scorer)
    monkeypatch.setattr(ensembles.answers, "of_path", lambda scorer: scorer)
    monkeypatch.setattr(
        ensembles,
        "path_ndcg",
        lambda world, scorer: float(
            (ranked(scorer.users([])[0] @ scorer.vectors.T) == ranked(by_factor[0])).all()
        ),
    )
    fit = Fit(
        world=made,
        settings=ensembles.SasrecTwoTowerSettings(factors=(0.5, 2.0, 16.0)),
        tokenizer=made.params.tokenizer,
        folder=tmp_path,
        report=None,
        progress=print,
        parts={
            str(place): Fitted(judge=lambda *_: {}, validation=0.0, parameters=10, model=part)
            for place, part in enumerate(parts)
        },
    )
    found = ensembles.fit_trio(fit)
    assert found.facts == {"factor_of_second": best}
    assert found.validation == 1.0
    assert found.parameters == 30


def test_results_of_other_datasets_stay_and_all_is_rendered(
    made: World, records: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "quality.json"
    workspace, plan = Workspace.find(), Plan(models=list(CONTENDERS), seeds=(1, 2))

    def write(dataset: str, *more: str) -> str | None:
        world = tiny.world(validation_users=20, validation_gap=dataset == "two")
        object.__setattr__(world, "dataset", dataset)
        renamed = [{**record, "dataset": dataset} for record in records]
        given = ["bench", "quality", "-d", dataset, *more]
        written = write_quality(workspace, world, plan, tiny.CHOSEN, renamed, given, out)
        assert written.path == out
        return written.replaced

    said = [write("one", "--seeds", "2"), write("two"), write("one"), write("one")]
    assert said == [None, None, "segue bench quality -d one --seeds 2", None]
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [run["dataset"] for run in found["runs"]] == ["two", "one"]
    assert len(found["rows"]) == 2 * len(table.rows(records))
    page = render(tmp_path)
    assert "### one" in page
    assert "### two" in page
    assert "`segue bench quality -d two`" in page
    assert page.count("chosen by validation of 20 users; settings") == 1
    assert page.count("chosen by validation of 20 users, of whom training lacks the event before") == 1
    held_back = {run["dataset"]: run["protocol"]["held_back_events"] for run in found["runs"]}
    assert held_back["one"] == 0 < held_back["two"] <= 20
    assert "| house | served | hidden | " in page
    assert "| house | sasrec_content | ndcg@10 | " in page


@pytest.mark.parametrize(
    "there",
    ["no JSON", "[]", '{"name": "gates", "rows": [{"power": 1}]}', '{"name": "quality"}'],
)
def test_a_file_of_something_else_is_left_alone(
    made: World, records: list[dict[str, Any]], tmp_path: Path, there: str
) -> None:
    out = tmp_path / "mine.json"
    out.write_text(there)
    plan = Plan(models=list(CONTENDERS), seeds=(1, 2))
    with pytest.raises(ConfigurationError, match=r"mine\.json holds .*name another file by --out"):
        write_quality(Workspace.find(), made, plan, tiny.CHOSEN, records, [], out)
    assert out.read_text() == there


def test_what_is_printed_says_who_chose_and_who_won(made: World, records: list[dict[str, Any]]) -> None:
    told = printed(made, Plan(models=list(CONTENDERS), seeds=(1, 2)), records).splitlines()
    users = len(made.cases("test", None))
    assert told[0] == f"test of {users} users; chosen by validation of {len(made.validation_cases())} users"
    gap = printed(tiny.world(validation_users=20, validation_gap=True), Plan(models=["house"]), records)
    assert "chosen by validation of 20 users, " in gap
    assert "events before their targets held back" in gap
    (served,) = [
        line.split()
        for line in told
        if line.startswith("house ") and "served hidden" in " ".join(line.split())
    ]
    weight = table.means(records)
    (expected,) = [
        row["code_weight"]
        for row in weight
        if (row["model"], row["head"], row["filter_seen"], row["metric"])
        == ("house", "served", True, "ndcg@10")
    ]
    assert f"{expected:.2f}" in served
    differences = [line for line in told if line.startswith("house minus sasrec,")]
    assert len(differences) == 2  # seen items hidden, and shown


def test_what_may_not_be_meant_is_said(made: World) -> None:
    there = len(made.validation_cases())
    few = f"{there} users choose epochs and weights: their NDCG@10 says little"
    assert warnings(made, there) == [few]
    assert warnings(made, there + 1) == [
        f"--validation-users {there + 1}: there are {there}, and all of them choose",
        few,
    ]
    (_, gap) = warnings(tiny.world(validation_users=None, validation_gap=True), None)
    assert "the last training event of every user is left out" in gap


def test_gains_of_ranks() -> None:
    ranks = [0, 1, 4, 5, 9, -1]
    expected = [1.0, 1 / np.log2(3), 1 / np.log2(6), 0, 0, 0]
    np.testing.assert_allclose(table.user_metric(ranks, "ndcg@5"), expected)
    np.testing.assert_array_equal(table.user_metric(ranks, "recall@10"), [1, 1, 1, 1, 1, 0])


def test_an_unknown_contender_and_nothing_to_compare_are_refused(made: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no contender 'sasrek'; contenders: popularity, "):
        tiny.benchmark(tmp_path, made, models=["sasrek"])
    with pytest.raises(ConfigurationError, match="at least one model"):
        tiny.benchmark(tmp_path, made, models=[])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: {sasrek: {}}", "there is no models.sasrek; known: popularity"),
        ("model: {}", "there is no model; known: tokenizer, models"),
        ("models: [sasrec]", "models must be a mapping"),
        ("models: {sasrec: 3}", "models.sasrec must be a mapping of settings"),
        ("models: {house: {dropuot: 0.5}}", "there is no models.house.dropuot; known: model, dimensions"),
        ("models: {house: {tokenizer: {sed: 3}}}", "there is no models.house.tokenizer.sed; known: name"),
        ("- 1", "must be a mapping with the keys tokenizer, models"),
        ("a: b: c", "is no valid YAML"),
    ],
)
def test_a_file_of_settings_that_makes_no_sense_is_refused_by_name(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "chosen.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"chosen\.yaml") as refused:
        read_settings(file)
    assert said in str(refused.value)


def test_settings_of_a_file_reach_the_model_and_wrong_ones_are_named(made: World, tmp_path: Path) -> None:
    file = tmp_path / "chosen.yaml"
    file.write_text(
        "tokenizer: {iterations: 3}\nmodels: {house: {dropout: 0.5, tokenizer: {seed: 3}}, sasrec: {layers: 1}}",
        encoding="utf-8",
    )
    found = read_settings(file)
    house: Any = found.settings(CONTENDERS["house"], made, 7)
    assert (house.model, house.dropout, house.epochs) == ("house", 0.5, 7)
    assert found.tokenizer_of("house", made).seed == 3
    assert found.tokenizer_of("sasrec_content", made).iterations == 3
    assert found.tokenizer_of("sasrec_content", made).seed == made.params.tokenizer.seed
    wrong = ChosenSettings("chosen.yaml", {}, {"sasrec": {"drop": 1}, "house": {"dropout": 2}})
    with pytest.raises(
        ConfigurationError, match=r"chosen.yaml: models.sasrec has no setting 'drop'; settings: "
    ):
        wrong.settings(CONTENDERS["sasrec"], made, None)
    with pytest.raises(ConfigurationError, match=r"chosen.yaml: models.house.dropout: .*less than 1"):
        wrong.settings(CONTENDERS["house"], made, None)
    misspelt = ChosenSettings("chosen.yaml", {"modality_weights": {"colaborative": 2}}, {})
    with pytest.raises(
        ConfigurationError,
        match=r"chosen.yaml: tokenizer of house.modality_weights.colaborative: ",
    ):
        misspelt.tokenizer_of("house", made)


def test_popularity_without_a_half_life_counts(made: World) -> None:
    settings = counted.PopularitySettings(half_life_days=None)
    fitted = counted.fit_popularity(
        counted.Fit(
            world=made,
            settings=settings,
            tokenizer=made.params.tokenizer,
            folder=Path(),
            report=None,
            progress=print,
            parts={},
        )
    )
    expected = np.bincount(np.asarray(made.training.items), minlength=tiny.ITEMS)
    np.testing.assert_array_equal(fitted.model.counts, expected)
