from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from segue.errors import ArtifactError
from segue.protocols import HistoryBatch
from segue.training.loop import FitResult
from tests.training.examples import Killed, NextItem, batches, equal, next_item, settings, train

EPOCHS, STEPS = 3, 6  # steps an epoch


def killed_before(step: int):
    """The batches, and a kill where batch number ``step`` (from 0, over all epochs) would be trained on."""

    def dying(epoch: int) -> Iterable[HistoryBatch]:
        for place, batch in enumerate(batches(epoch)):
            if epoch * STEPS + place == step:
                raise Killed
            yield batch

    return dying


def begun(folder: Path) -> NextItem:
    """A new process's model: where there is a checkpoint, its initial weights must not matter."""
    torch.manual_seed(99)
    return NextItem() if (folder / "checkpoint.json").is_file() else next_item()


def uninterrupted(**changes: object) -> tuple[NextItem, FitResult]:
    model = next_item()
    return model, train(model, settings(**changes))


@given(
    kills=st.lists(st.integers(0, EPOCHS * STEPS - 1), min_size=1, max_size=3).map(sorted),
    every=st.integers(1, 5),
    averaging=st.sampled_from([0.0, 0.8]),
    accumulate=st.sampled_from([1, 3]),
    precision=st.sampled_from(["fp32", "bf16"]),
)
@hypothesis_settings(max_examples=12, deadline=None)
def test_killed_at_any_step_and_resumed_gives_the_same_bits(
    tmp_path_factory, kills: list[int], every: int, averaging: float, accumulate: int, precision: str
) -> None:
    chosen = {"averaging": averaging, "accumulate": accumulate, "precision": precision, "decay_epochs": 3}
    whole, expected = uninterrupted(**chosen)
    folder = tmp_path_factory.mktemp("checkpoints")
    for kill in kills:
        with pytest.raises(Killed):
            train(
                begun(folder),
                settings(**chosen, checkpoint_steps=every),
                batches=killed_before(kill),
                checkpoints=folder,
            )
    resumed = begun(folder)
    found = train(resumed, settings(**chosen, checkpoint_steps=every + 1), checkpoints=folder)
    assert equal(whole, resumed)
    assert found.history == expected.history
    assert (found.best_epoch, found.best_value) == (expected.best_epoch, expected.best_value)


def test_no_step_behind_a_checkpoint_is_trained_again(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(next_item(), settings(checkpoint_steps=2), batches=killed_before(9), checkpoints=tmp_path)
    saved = json.loads((tmp_path / "checkpoint.json").read_text())
    assert (saved["epoch"], saved["batch"], saved["steps"]) == (1, 2, 8)
    lines: list[str] = []
    model = next_item()
    found = train(model, settings(), checkpoints=tmp_path, progress=lines.append)
    assert lines[0] == "goes on after epoch 1 of 3 and 2 batches of the next"
    left = [batch for epoch in (1, 2) for batch in batches(epoch)][2:]
    assert found.tokens == sum(int(batch.lengths.sum()) for batch in left)
    assert [file.name for file in tmp_path.glob("*.safetensors")] == ["step-18-3-checkpoint.safetensors"]


def test_the_clock_makes_checkpoints_too(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(next_item(), settings(checkpoint_minutes=0.0), batches=killed_before(4), checkpoints=tmp_path)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["batch"] == 4
    with pytest.raises(Killed):
        train(
            next_item(), settings(checkpoint_minutes=None), batches=killed_before(5), checkpoints=tmp_path / "none"
        )  # fmt: skip
    assert not (tmp_path / "none").exists()


def test_a_checkpoint_of_more_processes_is_refused(tmp_path: Path) -> None:
    train(next_item(), settings(epochs=1), checkpoints=tmp_path)
    saved = json.loads((tmp_path / "checkpoint.json").read_text())
    (tmp_path / "checkpoint.json").write_text(json.dumps({**saved, "processes": 2}))
    with pytest.raises(ArtifactError, match=r"of 2 processes .* start as many again"):
        train(next_item(), settings(epochs=1), checkpoints=tmp_path)


_ENDLESS = """
import sys, time
from pathlib import Path
from tests.training.examples import batches, next_item, settings, train

def slowly(epoch):
    for batch in batches(epoch):
        print(epoch, flush=True)
        time.sleep(0.02)
        yield batch

train(next_item(), settings(averaging=0.8, checkpoint_steps=1), batches=slowly, checkpoints=Path(sys.argv[1]))
"""


def test_a_process_that_was_killed_outright_leaves_what_gives_the_same_bits(
    tmp_path: Path, repository: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(repository), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", _ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    for _ in range(8):  # somewhere in the second epoch, in a step or in the writing of a checkpoint
        assert process.stdout.readline()
    time.sleep(0.003 * (os.getpid() % 10))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    saved = json.loads((tmp_path / "checkpoint.json").read_text())
    assert 6 <= saved["steps"] < EPOCHS * STEPS
    whole, expected = uninterrupted(averaging=0.8)
    torch.manual_seed(99)
    resumed = NextItem()
    found = train(resumed, settings(averaging=0.8), checkpoints=tmp_path)
    assert equal(whole, resumed)
    assert found.history == expected.history
