from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from segue.training.distributed import announced, gathered, leads, process_group, processes, told_by_first
from tests.conftest import REPOSITORY
from tests.training.examples import next_item, settings, train

# What every process runs, without dropout and with it: each process draws its own.
_PROGRAM = """
import json, os, sys
from pathlib import Path
from safetensors.torch import save_file
from segue.training.distributed import leads, process_group, rank
from tests.conftest import REPOSITORY
from tests.training.examples import batches, next_item, settings, train, weight_of

folder, kill = Path(sys.argv[1]), int(sys.argv[2])
chosen = settings(averaging=0.8, accumulate=2, checkpoint_steps=2)

def trained(dropout):
    done, lines, model = 0, [], next_item(dropout)

    def deadly(epoch):
        nonlocal done
        for batch in batches(epoch):
            done += 1
            if dropout and done == kill and rank() == 1:
                os.kill(os.getpid(), 9)
            yield batch

    def validate():
        assert leads()
        return weight_of(model)

    place = folder / f"dropout {dropout:g}"
    result = train(
        model, chosen, batches=deadly, validate=validate, checkpoints=place / "checkpoints", progress=lines.append
    )
    save_file(model.state_dict(), place / f"{rank()}.safetensors")
    told = {"history": result.history, "tokens": result.tokens, "lines": lines}
    (place / f"{rank()}.json").write_text(json.dumps(told))

with process_group():
    for dropout in (0.0, 0.3):
        trained(dropout)
"""


def together(folder: Path, *, count: int = 2, kill: int = 0) -> list[int]:
    """``count`` processes as torchrun starts them; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(folder), str(kill)],
            stderr=subprocess.DEVNULL if kill else None,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path]),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(count),
                "RANK": str(place),
                "LOCAL_RANK": str(place),
            },
        )
        for place in range(count)
    ]
    return [process.wait(timeout=120) for process in running]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left that nobody disturbed."""
    folder = tmp_path_factory.mktemp("pair")
    assert together(folder) == [0, 0]
    return folder


def told(folder: Path, place: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{place}.json").read_text())
    return found


def test_two_processes_follow_the_curve_of_one(pair: Path) -> None:
    alone, folder = next_item(dropout=0.0), pair / "dropout 0"
    expected = train(alone, settings(averaging=0.8))
    first, second = told(folder, 0), told(folder, 1)
    assert first["history"] == second["history"]
    for one, other in zip(expected.history, first["history"], strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    assert first["tokens"] == second["tokens"] == expected.tokens
    assert len(first["lines"]) == 3
    assert second["lines"] == []  # the first one speaks
    weights, others = (load_file(folder / f"{place}.safetensors") for place in (0, 1))
    for name, value in alone.state_dict().items():
        assert torch.equal(weights[name], others[name])
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_two_processes_that_died_go_on_bit_for_bit(pair: Path, tmp_path: Path) -> None:
    codes = together(tmp_path, kill=10)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] != 0
    whole, dead = (folder / "dropout 0.3" for folder in (pair, tmp_path))
    saved = json.loads((dead / "checkpoints" / "checkpoint.json").read_text())
    assert (saved["processes"], saved["epoch"], saved["batch"]) == (2, 1, 2)
    assert together(tmp_path) == [0, 0]
    for place in (0, 1):
        one, other = (load_file(folder / f"{place}.safetensors") for folder in (whole, dead))
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert told(whole, 0)["history"] == told(dead, 0)["history"]


def test_alone_nothing_is_joined_and_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group():
        assert (announced(), processes(), leads()) == (1, 1, True)
        assert told_by_first("word") == "word"
        assert gathered("word") == ["word"]
