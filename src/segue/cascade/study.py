"""Training of the neural models, and the small study that tunes SASRec on validation NDCG@10."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import optuna
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from segue.artifacts import read_json, write_json
from segue.cascade.sasrec import Sasrec
from segue.cascade.settings import SasrecSettings, TwoTowerSettings
from segue.cascade.two_tower import TwoTower
from segue.cascade.validation import Validation, Vocabulary
from segue.data.sequences import Sequences
from segue.protocols import HistoryBatch
from segue.training.batches import sequence_batches
from segue.training.gradients import events_with_history
from segue.training.loop import FitSettings, fit
from segue.training.throughput import throughput

Progress = Callable[[str], None]
Report = Callable[[int, dict[str, float]], None]
Model = TypeVar("Model", bound=nn.Module)

_WARMUP_EPOCHS = 4  # before a trial may be pruned


@dataclass(frozen=True)
class Trained(Generic[Model]):
    """A model, the items behind its rows, and how it was trained."""

    model: Model
    vocabulary: Vocabulary
    epochs: int  # after which the weights were taken
    value: float | None  # validation NDCG@10; None where nothing was validated
    throughput: dict[str, float] = field(default_factory=dict)  # of this process, where it trained


def train_sasrec(
    sequences: Sequences,
    n_items: int,
    settings: SasrecSettings,
    *,
    validate: bool,
    threads: int,
    progress: Progress,
    checkpoints: Path | None = None,
    report: Report | None = None,
    content: npt.NDArray[np.float32] | None = None,
    device: str = "cpu",
) -> Trained[Sasrec]:
    """SASRec on ``sequences``: with ``validate`` on their training part, the best epoch's weights kept;
    without, on everything for exactly ``settings.epochs``.

    ``content`` [N, D] of all items: it reads that too.
    """
    seen = sequences.training_part() if validate else sequences
    vocabulary = Vocabulary.of(seen, n_items)
    torch.manual_seed(settings.seed)
    model = Sasrec(
        len(vocabulary.items),
        settings,
        None if content is None else torch.from_numpy(content[vocabulary.items]),
    ).to(device)
    validation = (
        Validation(vocabulary.apply(sequences), len(vocabulary.items), settings.max_length)
        if validate
        else None
    )
    return _train(
        model,
        model.loss,
        vocabulary,
        vocabulary.apply(seen),
        settings,
        validate=None
        if validation is None
        else lambda: validation.ndcg(model.user_vectors, model.item_vectors()),
        threads=threads,
        progress=progress,
        checkpoints=checkpoints,
        report=report,
    )


def train_two_tower(
    sequences: Sequences,
    content: npt.NDArray[np.float32],
    settings: TwoTowerSettings,
    *,
    validate: bool,
    threads: int,
    progress: Progress,
    checkpoints: Path | None = None,
) -> Trained[TwoTower]:
    """The two-tower model, as :func:`train_sasrec`; ``content`` [N, D] of all items."""
    seen = sequences.training_part() if validate else sequences
    vocabulary = Vocabulary.of(seen, len(content))
    torch.manual_seed(settings.seed)
    model = TwoTower(len(vocabulary.items), content.shape[1], settings)
    model.content.copy_(torch.from_numpy(content[vocabulary.items]))
    counts = np.bincount(vocabulary.rows[seen.items], minlength=len(vocabulary.items))
    model.log_frequency.copy_(torch.from_numpy(np.log(counts / counts.sum())))
    validation = (
        Validation(vocabulary.apply(sequences), len(vocabulary.items), settings.max_length)
        if validate
        else None
    )

    def value() -> float:
        assert validation is not None
        with torch.inference_mode():
            table = model.all_item_vectors()
        return validation.ndcg(
            lambda batch: model.user_vectors(nn.functional.embedding(batch.items, table), batch.lengths),
            table,
        )

    return _train(
        model,
        model.loss,
        vocabulary,
        vocabulary.apply(seen),
        settings,
        validate=value if validate else None,
        threads=threads,
        progress=progress,
        checkpoints=checkpoints,
        report=None,
    )


def tune_sasrec(
    sequences: Sequences,
    n_items: int,
    settings: SasrecSettings,
    *,
    threads: int,
    progress: Progress,
    checkpoints: Path | None,
) -> tuple[Trained[Sasrec], list[dict[str, Any]]]:
    """``settings.trials`` trials: the settings as they stand, then what TPE suggests around them.

    A trial that is worse than the median of those before it at the same epoch is pruned. Returns the best
    trial's own model (nothing is trained again) and a record of every trial. A study that was interrupted
    goes on where it was: finished trials are read from ``checkpoints``, and the sampler, being seeded,
    suggests the same again.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=settings.seed, n_startup_trials=3, multivariate=False),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=_WARMUP_EPOCHS),
    )
    study.enqueue_trial(_point(settings))
    records: list[dict[str, Any]] = []
    best: Trained[Sasrec] | None = None
    for number in range(settings.trials):
        trial = study.ask()
        chosen = suggest(trial, settings)
        folder = None if checkpoints is None else checkpoints / f"trial-{number}"
        record, trained = _run_trial(trial, sequences, n_items, chosen, threads, progress, folder)
        records.append(record)
        if trained is not None and (best is None or _value(trained) > _value(best)):
            best = trained
        state = (
            optuna.trial.TrialState.PRUNED
            if record["state"] == "pruned"
            else optuna.trial.TrialState.COMPLETE
        )
        study.tell(trial, record["value"] if record["state"] == "complete" else None, state=state)
        progress(f"trial {number + 1} of {settings.trials}: {record['state']}, NDCG@10 {record['value']:.4f}")
    assert best is not None  # the first trial has nothing to be pruned by
    return best, records


def suggest(trial: optuna.trial.BaseTrial, settings: SasrecSettings) -> SasrecSettings:
    """The search space: learning rate, dropout, width, and cosine over a temperature or dot products."""
    scores = trial.suggest_categorical("scores", ["cosine", "dot"])
    temperature = trial.suggest_float("temperature", 0.05, 0.25, log=True) if scores == "cosine" else 1.0
    return settings.model_copy(
        update={
            "temperature": temperature,
            "learning_rate": trial.suggest_float("learning_rate", 1e-3, 8e-3, log=True),
            "dropout": trial.suggest_float("dropout", 0.1, 0.6),
            "dimensions": trial.suggest_categorical("dimensions", _widths(settings)),
        }
    )


def _widths(settings: SasrecSettings) -> list[int]:
    """The width that is set, and half of it where the heads can share that: never a costlier one."""
    half = settings.dimensions // 2
    return [settings.dimensions, half] if half and half % settings.heads == 0 else [settings.dimensions]


def _point(settings: SasrecSettings) -> dict[str, Any]:
    """``settings`` as a point of the search space."""
    cosine = settings.temperature < 1.0
    return {
        "scores": "cosine" if cosine else "dot",
        **({"temperature": settings.temperature} if cosine else {}),
        "learning_rate": settings.learning_rate,
        "dropout": settings.dropout,
        "dimensions": settings.dimensions,
    }


def _run_trial(
    trial: optuna.trial.Trial,
    sequences: Sequences,
    n_items: int,
    settings: SasrecSettings,
    threads: int,
    progress: Progress,
    folder: Path | None,
) -> tuple[dict[str, Any], Trained[Sasrec] | None]:
    """Train one trial, or read what it was. A pruned trial has a record and no model."""
    if folder is not None and (folder / "trial.json").is_file():
        return _finished(trial, sequences, n_items, settings, folder)
    values = _reported(folder)
    for epoch, value in enumerate(values):
        trial.report(value, epoch)

    def report(epoch: int, metrics: dict[str, float]) -> None:
        values.append(metrics["validation"])
        trial.report(metrics["validation"], epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    trained: Trained[Sasrec] | None = None
    with suppress(optuna.TrialPruned):  # the record tells
        trained = train_sasrec(
            sequences,
            n_items,
            settings,
            validate=True,
            threads=threads,
            progress=lambda text: progress(f"SASRec trial {trial.number + 1}: {text}"),
            checkpoints=folder,
            report=report,
        )
    record = {
        "number": trial.number,
        "state": "pruned" if trained is None else "complete",
        "value": max(values),
        "best_epoch": int(np.argmax(values)) + 1,
        "values": values,
        "settings": settings.described(),
    }
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if trained is not None:
            save_file(dict(trained.model.state_dict()), folder / "best.safetensors")
        write_json(folder / "trial.json", record)
    return record, trained


def _finished(
    trial: optuna.trial.Trial, sequences: Sequences, n_items: int, settings: SasrecSettings, folder: Path
) -> tuple[dict[str, Any], Trained[Sasrec] | None]:
    record = read_json(folder / "trial.json")
    assert isinstance(record, dict)
    for epoch, value in enumerate(record["values"]):
        trial.report(value, epoch)
    if record["state"] == "pruned":
        return record, None
    vocabulary = Vocabulary.of(sequences.training_part(), n_items)
    model = Sasrec(len(vocabulary.items), settings)
    model.load_state_dict(load_file(folder / "best.safetensors"))
    return record, Trained(model.eval(), vocabulary, record["best_epoch"], record["value"])


def _reported(folder: Path | None) -> list[float]:
    """Validation of the epochs that an interrupted trial had behind it (the loop's checkpoint tells)."""
    if folder is None or not (folder / "checkpoint.json").is_file():
        return []
    saved = read_json(folder / "checkpoint.json")
    assert isinstance(saved, dict)
    return [float(metrics["validation"]) for metrics in saved["history"]]


def _value(trained: Trained[Sasrec]) -> float:
    assert trained.value is not None
    return trained.value


def _train(
    model: Model,
    loss: Callable[..., Any],
    vocabulary: Vocabulary,
    sequences: Sequences,
    settings: SasrecSettings | TwoTowerSettings,
    *,
    validate: Callable[[], float] | None,
    threads: int,
    progress: Progress,
    checkpoints: Path | None,
    report: Report | None,
) -> Trained[Model]:
    def batches(epoch: int) -> Iterable[HistoryBatch]:
        return sequence_batches(
            sequences,
            batch_events=settings.batch_events,
            max_length=settings.max_length,
            seed=settings.seed,
            epoch=epoch,
        )

    result = fit(
        model,
        batches=batches,
        loss=loss,
        validate=validate,
        settings=FitSettings.of(settings, threads=threads),
        checkpoints=checkpoints,
        report=report,
        progress=progress,
        events=events_with_history,
    )
    measured = throughput(model, result, loss=loss, batches=batches, precision=settings.precision)
    return Trained(model, vocabulary, result.best_epoch, result.best_value, measured)
