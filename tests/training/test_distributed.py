from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segue.training.distributed import announced, gathered, leads, process_group, processes, told_by_first
from tests.training.examples import next_item, settings, train

# What every process runs: no dropout, because each draws its own.
_PROGRAM = """
import json, os, sys
from pathlib import Path
from safetensors.torch import save_file
from segue.training.distributed import leads, process_group, rank
from tests.training.examples import batches, next_item, settings, train, weight_of

folder, dropout, kill = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
done = 0

def deadly(epoch):
    global done
    for batch in batches(epoch):
        done += 1
        if done == kill and rank() == 1:
            os.kill(os.getpid(), 9)
        yield batch

def validate():
    assert leads()
    return weight_of(model)

lines = []
with process_group():
    model = next_item(dropout)
    result = train(
        model, settings(averaging=0.8, accumulate=2, checkpoint_steps=2), batches=deadly, validate=validate,
        checkpoints=folder / "checkpoints", progress=lines.append,
    )
    save_file(model.state_dict(), folder / f"{rank()}.safetensors")
    (folder / f"{rank()}.json").write_text(json.dumps({"history": result.history, "tokens": result.tokens, "lines": lines}))
"""


def together(
    folder: Path, repository: Path, *, count: int = 2, dropout: float = 0.0, kill: int = 0
) -> list[int]:
    """``count`` processes as torchrun starts them; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(folder), str(dropout), str(kill)],
            stderr=subprocess.PIPE if kill else None,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(repository), *sys.path]),
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


def test_two_processes_follow_the_curve_of_one(tmp_path: Path, repository: Path) -> None:
    assert together(tmp_path, repository) == [0, 0]
    alone = next_item(dropout=0.0)
    expected = train(alone, settings(averaging=0.8))
    first, second = (json.loads((tmp_path / f"{place}.json").read_text()) for place in (0, 1))
    assert first["history"] == second["history"]
    for one, other in zip(expected.history, first["history"], strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    assert first["tokens"] == second["tokens"] == expected.tokens
    assert len(first["lines"]) == 3
    assert second["lines"] == []  # the first one speaks
    weights, others = (load_file(tmp_path / f"{place}.safetensors") for place in (0, 1))
    for name, value in alone.state_dict().items():
        assert torch.equal(weights[name], others[name])
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5)


def test_two_processes_that_died_go_on_bit_for_bit(tmp_path: Path, repository: Path) -> None:
    whole, dead = tmp_path / "whole", tmp_path / "dead"
    whole.mkdir()
    dead.mkdir()
    assert together(whole, repository, dropout=0.3) == [0, 0]
    codes = together(dead, repository, dropout=0.3, kill=10)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] != 0
    saved = json.loads((dead / "checkpoints" / "checkpoint.json").read_text())
    assert (saved["processes"], saved["epoch"], saved["batch"]) == (2, 1, 2)
    assert together(dead, repository, dropout=0.3) == [0, 0]
    for place in (0, 1):
        one, other = (load_file(folder / f"{place}.safetensors") for folder in (whole, dead))
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    histories = [json.loads((folder / "0.json").read_text())["history"] for folder in (whole, dead)]
    assert histories[0] == histories[1]


def test_alone_nothing_is_joined_and_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group():
        assert (announced(), processes(), leads()) == (1, 1, True)
        assert told_by_first("word") == "word"
        assert gathered("word") == ["word"]
