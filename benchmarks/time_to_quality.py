"""How soon a model is any good: ``python -m benchmarks.time_to_quality --dataset amazon-beauty``.

The house model and a Hugging Face T5 TIGER (benchmarks/t5_tiger.py) on the same data, codebook and cores: seconds of
training steps until NDCG@10 on validation reaches a mark, judged on the same drawn users several times an epoch; the time
that judging takes is no training and is not counted. Where TIGER does not reach the mark within its minutes, the best
that it reached is the mark for both. Test is never read.

Both curves are kept under ``state/`` with the checkpoints, so a stopped benchmark goes on where it was: as long as code, data,
settings and processor are the same, or seconds of one would be told as those of another.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks import harness, t5_tiger
from benchmarks.t5_tiger import T5Shape, T5Tiger
from segue.artifacts import read_json
from segue.benchmarking.chosen import ChosenSettings, read_settings
from segue.benchmarking.contenders import contender
from segue.benchmarking.curve import Curve
from segue.benchmarking.provenance import processor
from segue.benchmarking.world import World, load_world
from segue.canonical import sha256_of, sha256_of_file
from segue.decoding.settings import DecodingSettings
from segue.generative.settings import GenerativeSettings
from segue.generative.store import new_model
from segue.generative.training import events_of, validation_ndcg
from segue.params import load_params
from segue.protocols import BoundItems, DenseHead, HistoryBatch, TrainableRecommender
from segue.steps.runner import code_version
from segue.training.batches import sequence_batches
from segue.training.loop import FitSettings, fit
from segue.workspace import Workspace

HOUSE, T5 = "house", "Hugging Face T5 TIGER"
MARK = 0.035
_FOREVER: Final = 100_000  # stretches; the mark or the minutes end a training
_DECODING = DecodingSettings(beam_width=50, dense_candidates=50)  # for both, as epochs are judged elsewhere
# On what the curves rest beside the package.
_SOURCES: Final = {HOUSE: (Path(__file__),), T5: (Path(__file__), Path(t5_tiger.__file__))}


class Ended(Exception):
    """The mark is reached, or the minutes are over."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="amazon-beauty")
    parser.add_argument("--mark", type=float, default=MARK, help="NDCG@10 on validation")
    parser.add_argument("--minutes", type=float, default=180.0, help="of training steps, for each model")
    parser.add_argument("--users", type=int, default=2000, help="of validation, drawn by a seed")
    parser.add_argument(
        "--stretches", type=int, default=8, help="an epoch of the house model is judged so often"
    )
    parser.add_argument(
        "--t5-stretches", type=int, default=2, help="and one of T5: its epochs are far longer"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--t5-learning-rate", type=float, default=1e-3)
    parser.add_argument("--t5-batch-events", type=int, default=512, help="padded positions, each a sample")
    parser.add_argument("--settings", type=Path, default=None, help="as of `segue bench quality`")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the parameters")
    arguments = parser.parse_args()
    workspace = Workspace.find()
    params = load_params(workspace, arguments.dataset, arguments.set)
    world = load_world(
        workspace,
        arguments.dataset,
        params,
        validation_users=arguments.users,
        device="cpu",
        threads=arguments.threads,
    )
    own = workspace.root / "benchmarks" / "settings" / "quality" / f"{arguments.dataset}.yaml"
    file = arguments.settings or (own if own.is_file() else None)
    chosen = ChosenSettings() if file is None else read_settings(file)
    rows = measure(
        world,
        chosen,
        workspace.state(arguments.dataset) / "benchmarks" / "time_to_quality",
        mark=arguments.mark,
        minutes=arguments.minutes,
        stretches={HOUSE: arguments.stretches, T5: arguments.t5_stretches},
        seed=arguments.seed,
        t5={"learning_rate": arguments.t5_learning_rate, "batch_events": arguments.t5_batch_events},
    )
    path = harness.write(
        f"time_to_quality_{arguments.dataset}".replace("-", "_"),
        __doc__.split("\n\n")[1].replace("\n", " "),
        [name for name in rows[0] if name != "curve"],
        rows,
        notes=[
            f"{arguments.users:,} validation users, seen items hidden, beam of {_DECODING.beam_width}; "
            f"{arguments.threads} thread{'s' if arguments.threads > 1 else ''}; settings: {chosen.origin}",
            "curves (seconds of training, NDCG@10) stand in the JSON",
        ],
        arguments=sys.argv[1:],
    )
    print(f"wrote {path}")


def measure(
    world: World,
    chosen: ChosenSettings,
    folder: Path,
    *,
    mark: float,
    minutes: float,
    stretches: dict[str, int],
    seed: int,
    t5: dict[str, Any],
    shape: T5Shape | None = None,
) -> list[dict[str, Any]]:
    """One row a model: the mark, the seconds to it, how many times those of the house model that is, and the curve."""
    house = contender(HOUSE)
    settings = chosen.settings(house, world, None).model_copy(update={"seed": seed, "threads": world.threads})
    assert isinstance(settings, GenerativeSettings)
    bound = world.bound(chosen.tokenizer_of(HOUSE, world))
    # A history of 20 events, as in the paper; the plain weights at a rate that stays, as its users train it.
    theirs = settings.model_copy(
        update={"model": "tiger", "max_length": 20, "averaging": 0.0, "weight_decay": 0.0, **t5}
    )

    def t5_model() -> TrainableRecommender:
        torch.manual_seed(seed)
        made = T5Tiger(
            theirs,
            codebook_id=bound.codebook_id,
            level_sizes=bound.level_sizes,
            content_dimensions=bound.vectors.shape[1],
            shape=shape,
        )
        made.bind(bound)
        return made

    common = {"mark": mark, "minutes": minutes, "world": world, "bound": bound}
    curves = {
        T5: curve_of(T5, t5_model, theirs, folder, decays=False, stretches=stretches[T5], **common),
        HOUSE: curve_of(
            HOUSE,
            lambda: new_model(settings, bound),
            settings,
            folder,
            decays=True,
            stretches=stretches[HOUSE],
            **common,
        ),
    }
    return rows(curves, mark)


def rows(curves: dict[str, list[tuple[float, float]]], mark: float) -> list[dict[str, Any]]:
    """From each model's curve of (seconds, NDCG@10). What TIGER reached at best is the mark where it lies lower."""
    reached = min(mark, max(value for _, value in curves[T5]))
    seconds = {
        name: next((second for second, value in curve if value >= reached), None)
        for name, curve in curves.items()
    }
    base = seconds[HOUSE]
    return [
        {
            "model": name,
            "mark": reached,
            "mark is": "the one asked for" if reached == mark else "TIGER's best within its minutes",
            "training seconds to the mark": seconds[name],
            "times the house model's": None if base is None or own is None else own / base,
            "best": max(value for _, value in curve),
            "seconds trained": curve[-1][0],
            "curve": [list(point) for point in curve],
        }
        for name, curve in curves.items()
        for own in [seconds[name]]
    ]


def curve_of(
    name: str,
    make: Callable[[], TrainableRecommender],
    settings: GenerativeSettings,
    folder: Path,
    *,
    decays: bool,
    mark: float,
    minutes: float,
    stretches: int,
    world: World,
    bound: BoundItems,
) -> list[tuple[float, float]]:
    """(seconds of training steps, NDCG@10) after each stretch, until ``mark`` or ``minutes``; from before as far as that
    goes."""
    key = sha256_of(
        [
            name,
            settings.described(),
            bound.codebook_id,
            world.content_sha256,
            stretches,
            world.validated.validation_at.tolist(),
            world.device,
            processor(),
            code_version(
                (*contender(HOUSE).code, "benchmarking.curve")
            ),  # the T5 is bound, trained and judged by the same
            [sha256_of_file(source) for source in _SOURCES[name]],
        ]
    )
    own = folder / f"{name.split()[-1].lower()}-{key[:16]}"
    own.mkdir(parents=True, exist_ok=True)
    kept = own / "curve.json"
    epochs: Any = read_json(kept) if kept.is_file() else []
    if not _is_over(epochs, mark, minutes):
        _train(name, make(), settings, own, stretches, decays, world, bound, mark, minutes)
        epochs = read_json(kept)
    assert isinstance(epochs, list)
    seconds, curve = 0.0, []
    for epoch in epochs:
        seconds += float(epoch["seconds"])
        if "validation" in epoch:
            curve.append((seconds, float(epoch["validation"])))
    return curve


def _is_over(epochs: list[dict[str, Any]], mark: float, minutes: float) -> bool:
    reached = any(epoch.get("validation", 0.0) >= mark for epoch in epochs)
    return reached or sum(float(epoch["seconds"]) for epoch in epochs) >= 60 * minutes


def _train(
    name: str,
    model: TrainableRecommender,
    settings: GenerativeSettings,
    folder: Path,
    stretches: int,
    decays: bool,
    world: World,
    bound: BoundItems,
    mark: float,
    minutes: float,
) -> None:
    assert isinstance(model, torch.nn.Module)
    seen = torch.zeros(len(bound.active), dtype=torch.bool)
    seen[torch.from_numpy(world.training.items.astype("int64"))] = True
    model.adopt(seen & bound.active)
    events = [0]

    def batches(stretch: int) -> Iterator[HistoryBatch]:
        """Every ``stretches``-th batch of an epoch: all of it after so many."""
        events[0] = 0
        epoch, offset = divmod(stretch, stretches)
        for place, batch in enumerate(
            sequence_batches(
                world.training,
                batch_events=settings.batch_events,
                max_length=settings.max_length,
                seed=settings.seed,
                epoch=epoch,
            )
        ):
            if place % stretches == offset:
                events[0] += int(batch.lengths.sum())
                yield batch

    curve = Curve(folder, 0)

    def report(stretch: int, metrics: dict[str, float]) -> None:
        curve.events = events[0]
        curve.add(stretch, metrics)
        if _is_over(curve.epochs, mark, minutes):
            raise Ended

    weight = 0.5 if isinstance(model, DenseHead) else 0.0
    try:
        fit(
            model,
            batches=batches,
            loss=model.loss,
            validate=lambda: validation_ndcg(model, bound, world.validated, _DECODING, weights=(weight,))[
                weight
            ],
            settings=FitSettings(
                epochs=_FOREVER,
                patience=_FOREVER,
                decay_epochs=settings.epochs * stretches if decays else 0,
                learning_rate=settings.learning_rate,
                weight_decay=settings.weight_decay,
                precision=settings.precision,
                averaging=settings.averaging,
                accumulate=settings.accumulate,
                seed=settings.seed,
                threads=world.threads,
            ),
            checkpoints=folder / "checkpoints",
            report=report,
            progress=lambda line: print(f"{name}: {line}", file=sys.stderr, flush=True),
            events=events_of(model),
        )
    except Ended:
        print(f"{name}: {curve.train_seconds:.0f} s of training", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
