from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from segue.decoding.settings import DecodingSettings
from segue.errors import ConfigurationError, DataError
from segue.generative.path import GenerativePath
from segue.generative.registry import model_factory
from segue.generative.settings import TuningSettings
from segue.generative.training import choose_fusion, train, tune, validation_ndcg
from segue.paths import ListRules, Request

from . import tiny


def silent(line: str) -> None:
    assert line


def test_training_learns_and_equal_seeds_give_equal_weights() -> None:
    data, bound = tiny.sequences(40), tiny.items()
    settings = tiny.SETTINGS.model_copy(update={"epochs": 15, "patience": 15, "learning_rate": 2e-2})
    first = train(data.training_part(), bound, settings, validation=data, checkpoints=None, progress=silent)
    again = train(data.training_part(), bound, settings, validation=data, checkpoints=None, progress=silent)
    losses = [metrics["total"] for metrics in first.result.history]
    assert losses[-1] < 0.7 * losses[0]
    assert first.result.history == again.result.history
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_the_validation_figure_is_that_of_the_served_lists() -> None:
    data, bound = tiny.sequences(20), tiny.items(retired=(3,))
    model = tiny.model(bound)
    decoding = DecodingSettings(beam_width=6, dense_candidates=5)
    found = validation_ndcg(model, bound, data, decoding, weights=(0.0, 0.3, 1.0))
    for weight, value in found.items():
        path = GenerativePath(
            model, bound, dense_weight=weight, beam_width=10, dense_candidates=10, max_length=8
        )
        gains = []
        for user, position in data.targets("validation"):
            ids, times = data.user(user)
            request = Request(history=ids[:position].astype(np.int64), timestamps=times[:position])
            served = path.recommend([request], 10, ListRules())[0].items.tolist()
            rank = served.index(ids[position]) + 1 if ids[position] in served else None
            gains.append(0.0 if rank is None else 1 / np.log2(rank + 1))
        assert value == pytest.approx(float(np.mean(gains)))


def test_the_fusion_weight_is_the_best_of_the_grid() -> None:
    data, bound = tiny.sequences(20), tiny.items()
    weight, values = choose_fusion(
        tiny.model(bound), bound, data, DecodingSettings(fusion_grid=(0.0, 0.5, 1.0))
    )
    assert values[weight] == max(values.values())
    with pytest.raises(DataError, match="no regular user has a validation target"):
        choose_fusion(tiny.model(bound), bound, data.training_part(), DecodingSettings())


def test_an_interrupted_study_ends_as_an_uninterrupted_one(tmp_path) -> None:
    data, bound = tiny.sequences(16), tiny.items()

    class Killed(BaseException):
        pass

    def study(folder, kill_at: int | None):
        lines: list[str] = []

        def progress(line: str) -> None:
            lines.append(line)
            if len(lines) == kill_at:
                raise Killed

        return tune(
            data,
            bound,
            tiny.SETTINGS,
            TuningSettings(trials=3, warmup_epochs=0),
            name="study",
            storage=folder / "study.journal",
            checkpoints=folder / "checkpoints",
            tracking=None,
            progress=progress,
        )

    whole = study(tmp_path / "whole", None)
    for kill_at in (1, 2, 4):
        folder = tmp_path / str(kill_at)
        with pytest.raises(Killed):
            study(folder, kill_at)
        resumed = study(folder, None)
        assert resumed.study == whole.study
        assert resumed.settings == whole.settings
        for name, value in resumed.best.model.state_dict().items():
            assert torch.equal(value, whole.best.model.state_dict()[name]), name


def test_workers_end_in_the_best_trials_own_model(tmp_path) -> None:
    data, bound = tiny.sequences(16), tiny.items()
    tuned = tune(
        data,
        bound,
        tiny.SETTINGS,
        TuningSettings(trials=3, warmup_epochs=0, workers=2),
        name="study",
        storage=tmp_path / "study.journal",
        checkpoints=tmp_path / "checkpoints",
        tracking=None,
        progress=silent,
    )
    assert {trial["index"] for trial in tuned.study.trials} == {0, 1, 2}
    assert tuned.study.best_value == tuned.best.result.best_value
    assert tuned.best.result.tokens == 0  # read from its checkpoint, not trained again
    again = train(
        data.training_part(), bound, tuned.trial_settings, validation=data, checkpoints=None, progress=silent
    )
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, tuned.best.model.state_dict()[name]), name


def test_micro_batches_are_weighted_by_the_events_that_the_loss_counts() -> None:
    bound = tiny.items(retired=(3, 4, 5, 6))  # they have no loss, and are spread unevenly
    data = tiny.sequences(24)
    settings = tiny.SETTINGS.model_copy(update={"dropout": 0.0, "identity_dropout": 0.0})
    whole, pieces = (
        train(data, bound, chosen, validation=None, checkpoints=None, progress=silent)
        for chosen in (settings, settings.model_copy(update={"accumulate": 3}))
    )
    for one, other in zip(whole.result.history, pieces.result.history, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(pieces.model.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ConfigurationError, match="models: house"):
        model_factory("no-such-model")


def test_nothing_to_train_on_is_an_error() -> None:
    some = tiny.sequences(2)
    none = replace(
        some, items=some.items[:0], timestamps=some.timestamps[:0], offsets=np.zeros(3, dtype=np.int64)
    )
    with pytest.raises(DataError, match="no event to train on"):
        train(none, tiny.items(), tiny.SETTINGS, validation=None, checkpoints=None, progress=silent)
