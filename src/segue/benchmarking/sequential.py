"""Contenders whose score of an item is a product of two vectors: SASRec and its kin, the two towers, and sums of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from segue.benchmarking import answers
from segue.benchmarking.contender import CHECKPOINTS, Fit, Fitted
from segue.benchmarking.curve import Curve
from segue.benchmarking.world import World
from segue.cascade.cascade import DensePath
from segue.cascade.esasrec import Esasrec
from segue.cascade.sasrec import Sasrec
from segue.cascade.scorers import SasrecScorer, TwoTowerScorer
from segue.cascade.settings import EsasrecSettings, SasrecSettings, TwoTowerSettings
from segue.cascade.two_tower import TwoTower
from segue.cascade.validation import Validation, Vocabulary
from segue.data.sequences import Sequences
from segue.generative.hstu_items import HstuItems
from segue.generative.settings import GenerativeSettings
from segue.items import ItemVectors
from segue.protocols import HistoryBatch
from segue.training.batches import sequence_batches
from segue.training.gradients import events_with_history
from segue.training.loop import FitSettings
from segue.training.loop import fit as train

Users = Callable[[HistoryBatch], Tensor]


class ContentSasrecSettings(SasrecSettings):
    """SASRec that is given content besides."""

    content_scale: float = Field(1.0, gt=0)  # the length of an item's content vector


def sasrec_defaults(world: World) -> SasrecSettings:
    return world.params.cascade.sasrec


def content_sasrec_defaults(world: World) -> ContentSasrecSettings:
    return ContentSasrecSettings.model_validate(world.params.cascade.sasrec.model_dump())


def esasrec_defaults(world: World) -> EsasrecSettings:
    chosen = world.params.cascade.sasrec.model_dump(exclude={"loss"})
    return EsasrecSettings.model_validate(chosen)


def hstu_items_defaults(world: World) -> GenerativeSettings:
    return world.params.generative


def two_tower_defaults(world: World) -> TwoTowerSettings:
    return world.params.cascade.two_tower


def fit_sasrec(fit: Fit) -> Fitted:
    return _sequential(fit, "sasrec", lambda rows, _: Sasrec(len(rows), fit.settings))


def fit_content_sasrec(fit: Fit) -> Fitted:
    content = fit.world.content(fit.tokenizer) * np.float32(fit.settings.content_scale)
    return _sequential(
        fit,
        "sasrec_content",
        lambda rows, _: Sasrec(len(rows), fit.settings, torch.from_numpy(content[rows])),
    )


def fit_esasrec(fit: Fit) -> Fitted:
    return _sequential(
        fit, "esasrec", lambda rows, counts: Esasrec(len(rows), fit.settings, torch.from_numpy(counts))
    )


def fit_hstu_items(fit: Fit) -> Fitted:
    return _sequential(fit, "hstu_items", lambda rows, _: HstuItems(len(rows), fit.settings))


def _sequential(
    fit: Fit,
    name: str,
    make: Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Any],
) -> Fitted:
    """``make`` is given the items of the vocabulary [V] and how often each occurs [V]."""
    world = fit.world
    vocabulary = Vocabulary.of(world.training, len(world.items))
    torch.manual_seed(fit.settings.seed)
    model = make(vocabulary.items, _counts(world.training, vocabulary)).to(world.device)
    facts = _trained(fit, model, vocabulary, lambda: (model.user_vectors, model.item_vectors()))
    model.cpu()
    scorer = SasrecScorer(model, [world.items.ids[item] for item in vocabulary.items], world.items, name)
    return Fitted(judge=answers.of_path(DensePath(scorer, world.items)), model=scorer, **facts)


def fit_two_tower(fit: Fit) -> Fitted:
    world = fit.world
    content = world.content(fit.tokenizer)
    vocabulary = Vocabulary.of(world.training, len(world.items))
    torch.manual_seed(fit.settings.seed)
    model = TwoTower(len(vocabulary.items), content.shape[1], fit.settings)
    model.content.copy_(torch.from_numpy(content[vocabulary.items]))
    counts = _counts(world.training, vocabulary)
    model.log_frequency.copy_(torch.from_numpy(np.log(counts / counts.sum())))
    model.to(world.device)

    def vectors() -> tuple[Users, Tensor]:
        with torch.inference_mode():
            table = model.all_item_vectors()

        def users(batch: HistoryBatch) -> Tensor:
            batch = batch.to(table.device)
            return model.user_vectors(nn.functional.embedding(batch.items, table), batch.lengths)

        return users, table

    facts = _trained(fit, model, vocabulary, vectors)
    model.cpu()
    ids = [world.items.ids[item] for item in vocabulary.items]
    present = np.asarray(world.bound(fit.tokenizer).present)
    scorer = TwoTowerScorer(model, ids, ItemVectors(content, present, world.items.ids), world.items)
    return Fitted(judge=answers.of_path(DensePath(scorer, world.items)), model=scorer, **facts)


def _counts(sequences: Sequences, vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """[V] how often each item of the vocabulary occurs."""
    return np.bincount(vocabulary.rows[sequences.items], minlength=len(vocabulary.items)).astype(np.int64)


def _trained(
    fit: Fit, model: nn.Module, vocabulary: Vocabulary, vectors: Callable[[], tuple[Users, Tensor]]
) -> dict[str, Any]:
    """Train with early stopping on validation; what :class:`Fitted` holds of it."""
    world, settings = fit.world, fit.settings
    sequences = vocabulary.apply(world.training)
    validation = Validation(vocabulary.apply(world.validated), len(vocabulary.items), settings.max_length)

    def batches(epoch: int) -> Iterable[HistoryBatch]:
        return sequence_batches(
            sequences,
            batch_events=settings.batch_events,
            max_length=settings.max_length,
            seed=settings.seed,
            epoch=epoch,
        )

    curve = Curve(fit.folder, len(sequences.items), fit.report)
    loss: Any = model.loss
    result = train(
        model,
        batches=batches,
        loss=loss,
        validate=lambda: validation.ndcg(*vectors()),
        settings=FitSettings.of(settings, threads=world.threads),
        checkpoints=fit.folder / CHECKPOINTS,
        report=curve.add,
        progress=fit.progress,
        events=events_with_history,
    )
    assert result.best_value is not None
    return {
        "validation": result.best_value,
        "parameters": sum(each.numel() for each in model.parameters()),
        "train_seconds": curve.train_seconds,
        "wall_seconds": curve.wall_seconds,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "curve": curve.epochs,
    }
