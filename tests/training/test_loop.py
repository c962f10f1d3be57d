from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from segue.errors import ArtifactError, ConfigurationError
from segue.protocols import HistoryBatch
from segue.training.loop import FitSettings, fit, saved_history


class Scorer(nn.Module):
    """Predicts the last item of a history from the mean of the others, with dropout, so that randomness
    matters."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 8)
        self.layer = nn.Linear(8, 12)
        self.dropout = nn.Dropout(0.3)

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        mean = self.table(batch.items[:, :-1]).mean(dim=1)
        total = nn.functional.cross_entropy(self.layer(self.dropout(mean)).float(), batch.items[:, -1])
        return {"total": total}


def scorer() -> Scorer:
    torch.manual_seed(4)
    return Scorer()


def batches(epoch: int) -> list[HistoryBatch]:
    generator = torch.Generator().manual_seed(epoch)
    items = torch.randint(12, (6, 8, 5), generator=generator)
    return [HistoryBatch(items=i, timestamps=i, lengths=torch.full((8,), 5)) for i in items]


def settings(**changes: object) -> FitSettings:
    values = {"epochs": 5, "learning_rate": 1e-2, "patience": 9, "threads": 1, "weight_decay": 0.01} | changes
    return FitSettings(**values)  # type: ignore[arg-type]


def curve(values: list[float]):
    """A validation that goes through ``values``, one an epoch."""
    left = iter(values)
    return lambda: next(left)


def silent(line: str) -> None:
    assert line


class Killed(BaseException):
    pass


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("killed_after", [1, 3])
@pytest.mark.parametrize("averaging", [0.0, 0.8])
def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path, precision: str, killed_after: int, averaging: float
) -> None:
    values = [0.1, 0.4, 0.3, 0.5, 0.2]
    chosen = settings(precision=precision, decay_epochs=5, averaging=averaging)
    whole = scorer()
    expected = fit(
        whole, batches=batches, loss=whole.loss, validate=curve(values), settings=chosen, checkpoints=None,
        progress=silent,
    )  # fmt: skip

    def kill(epoch: int, metrics: dict[str, float]) -> None:
        if epoch + 1 == killed_after:
            raise Killed

    first = scorer()
    with pytest.raises(Killed):
        fit(
            first, batches=batches, loss=first.loss, validate=curve(values), settings=chosen,
            checkpoints=tmp_path, report=kill, progress=silent,
        )  # fmt: skip
    assert len(saved_history(tmp_path)) == killed_after
    torch.manual_seed(99)  # another process has another generator state, and other initial weights
    second = Scorer()
    found = fit(
        second, batches=batches, loss=second.loss, validate=curve(values[killed_after:]), settings=chosen,
        checkpoints=tmp_path, progress=silent,
    )  # fmt: skip
    assert (found.best_epoch, found.best_value, found.epochs) == (4, 0.5, 5)
    assert found.history == expected.history
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_what_is_kept_and_validated_is_the_moving_average_while_training_goes_on_from_its_own_weights() -> (
    None
):
    def trained(averaging: float, epochs: int) -> tuple[Scorer, list[Tensor], list[Tensor]]:
        """The model, its weights after each step, and those that were validated."""
        model, steps, seen = scorer(), [], []
        optimizer_step = torch.optim.AdamW.step

        def step(self: torch.optim.Optimizer) -> None:
            optimizer_step(self)
            steps.append(model.layer.weight.detach().clone())

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", step)
            fit(
                model, batches=batches, loss=model.loss, settings=settings(averaging=averaging, epochs=epochs),
                validate=lambda: seen.append(model.layer.weight.detach().clone()) or float(len(seen)),
                checkpoints=None, progress=silent,
            )  # fmt: skip
        return model, steps, seen

    plain, plain_steps, plain_seen = trained(0.0, 3)
    averaged, steps, seen = trained(0.8, 3)
    assert all(torch.equal(one, other) for one, other in zip(plain_steps, steps, strict=True))
    assert torch.equal(plain_seen[-1], plain_steps[-1])
    assert torch.equal(plain.layer.weight, plain_steps[-1])
    average, expected = steps[0], []
    for number, value in enumerate(steps[1:], start=2):
        decay = min(0.8, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * value
        if number % 6 == 0:
            expected.append(average)
    for one, other in zip(expected, seen, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(averaged.layer.weight, expected[-1])


def test_the_best_epoch_is_restored_and_patience_stops() -> None:
    model, seen = scorer(), []

    def validate() -> float:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return [0.1, 0.9, 0.3, 0.2, 0.1, 0.1][len(seen) - 1]

    result = fit(
        model, batches=batches, loss=model.loss, validate=validate, settings=settings(epochs=20, patience=2),
        checkpoints=None, progress=silent,
    )  # fmt: skip
    assert (result.best_epoch, result.epochs) == (2, 4)
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())
    assert not model.training


def test_without_validation_exactly_the_epochs_asked_for_are_trained() -> None:
    model, lines = scorer(), []
    result = fit(
        model, batches=batches, loss=model.loss, validate=None, settings=settings(epochs=3), checkpoints=None,
        progress=lines.append,
    )  # fmt: skip
    assert (result.best_epoch, result.best_value, result.epochs) == (3, None, 3)
    assert result.tokens == 3 * 6 * 8 * 5
    assert len(lines) == 3
    assert all("tokens/s" in line for line in lines)


def test_a_longer_training_goes_on_from_a_shorter_one(tmp_path) -> None:
    model = scorer()
    whole = scorer()
    for epochs in (2, 4):
        fit(
            model, batches=batches, loss=model.loss, validate=None, settings=settings(epochs=epochs),
            checkpoints=tmp_path, progress=silent,
        )  # fmt: skip
    fit(
        whole, batches=batches, loss=whole.loss, validate=None, settings=settings(epochs=4), checkpoints=None,
        progress=silent,
    )  # fmt: skip
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_foreign_or_torn_checkpoint_is_refused(tmp_path) -> None:
    model = scorer()

    def train(**changes: object) -> None:
        fit(
            model, batches=batches, loss=model.loss, validate=None, settings=settings(epochs=1, **changes),
            checkpoints=tmp_path, progress=silent,
        )  # fmt: skip

    train()
    with pytest.raises(ArtifactError, match="other settings"):
        train(learning_rate=0.5)
    (tmp_path / json.loads((tmp_path / "checkpoint.json").read_text())["tensors"]).unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        train()


def test_divergence_is_an_error_with_a_remedy() -> None:
    model = scorer()
    with pytest.raises(ConfigurationError, match="lower learning_rate"):
        fit(
            model, batches=batches, loss=lambda batch: {"total": model.loss(batch)["total"] * float("nan")},
            validate=None, settings=settings(), checkpoints=None, progress=silent,
        )  # fmt: skip


def test_the_callers_generator_is_left_alone() -> None:
    model = scorer()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit(
        model, batches=batches, loss=model.loss, validate=None, settings=settings(epochs=1), checkpoints=None,
        progress=silent,
    )  # fmt: skip
    assert torch.equal(before, torch.get_rng_state())


class TwoRates(Scorer):
    """Its layer learns at a fifth of what the table does."""

    def rates(self) -> dict[str, float]:
        return {"layer.": 0.2}


def test_a_part_may_learn_at_its_own_rate(tmp_path) -> None:
    """Adam's first step moves a parameter by the rate, whatever its gradient."""
    torch.manual_seed(4)
    model = TwoRates()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    chosen = settings(epochs=1, warmup_steps=1, clip_norm=0.0, weight_decay=0.0)
    fit(
        model, batches=lambda epoch: batches(epoch)[:1], loss=model.loss, validate=None, settings=chosen,
        checkpoints=tmp_path, progress=silent,
    )  # fmt: skip
    moved = {
        name: float((value.detach() - before[name]).abs().max()) for name, value in model.named_parameters()
    }
    assert moved["table.weight"] == pytest.approx(1e-2, rel=1e-3)
    assert moved["layer.weight"] == pytest.approx(2e-3, rel=1e-3)
    assert moved["layer.bias"] == pytest.approx(2e-3, rel=1e-3)
    other = scorer()  # the same weights at one rate are another training
    with pytest.raises(ArtifactError):
        fit(
            other, batches=batches, loss=other.loss, validate=None, settings=chosen, checkpoints=tmp_path,
            progress=silent,
        )  # fmt: skip
