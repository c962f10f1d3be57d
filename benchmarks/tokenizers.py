"""Semantic IDs at the size of a real catalogue: ``python -m benchmarks.tokenizers``.

Three levels of 256 codes on 200,000 seeded synthetic vectors of 384 dimensions (2,000 Gaussian clusters of falling
variance): training, assignment of 1,000,000 vectors, and insertion of 10,000 items, side by side with FAISS's
`ResidualQuantizer` and scikit-learn's `MiniBatchKMeans` level by level, all in one run on the same number of threads,
by turns. `ratio` is an engine's median over that of the task's fastest peer; `error` is Σ‖x − x̂‖² / Σ‖x‖² over all
vectors of the task; `peak_mib` is the resident memory that the task added at its highest, in a process of its own.

``--quick`` runs a toy size and writes nothing. A single measurement for ``peak_mib`` is this module's own child process
(``--task TASK --engine ENGINE``), which prints one number.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from benchmarks import harness
from segue.tokenizers.codebook import Codebook, EncoderIdentity
from segue.tokenizers.fusion import Fusion, Modality
from segue.tokenizers.item_map import ItemMap
from segue.tokenizers.parallel import workers
from segue.tokenizers.residual_kmeans import ResidualKMeans
from segue.tokenizers.screens import IntegerScreen
from segue.tokenizers.settings import TokenizerSettings

Rows = npt.NDArray[np.float32]
SEED = 17
CLUSTERS = 2000
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
COLUMNS = ("task", "engine", "seconds", "low", "high", "repeats", "ratio", "error", "peak_mib")
_CHUNK = 16384  # rows decoded at once, so that measuring the error needs little memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    train: int = 200_000
    assign: int = 1_000_000
    insert: int = 10_000
    dimensions: int = 384
    bits: int = 8  # a level has 2 ** bits codes: FAISS knows no other sizes
    levels: int = 3
    repeats: int = 5


QUICK = Size(train=3000, assign=4000, insert=200, dimensions=32, bits=4, repeats=2)


class Engine(Protocol):
    """One way to make residual codes."""

    def fit(self, rows: Rows, size: Size) -> Any: ...

    def encode(self, model: Any, rows: Rows) -> Any: ...

    def decode(self, model: Any, codes: Any) -> Rows: ...


Models = dict[str, Any]  # by engine


class Segue:
    """The default tokenizer, ``residual_kmeans``, with its default settings."""

    def fit(self, rows: Rows, size: Size) -> ResidualKMeans:
        sizes = (*(2**size.bits,) * size.levels, 32)
        return ResidualKMeans.fit(rows, TokenizerSettings(level_sizes=sizes, seed=SEED))

    def encode(self, model: ResidualKMeans, rows: Rows) -> npt.NDArray[np.int64]:
        return model.encode(rows)

    def decode(self, model: ResidualKMeans, codes: npt.NDArray[np.int64]) -> Rows:
        return model.reconstruct(codes).astype(np.float32)


@dataclass(frozen=True)
class Faiss:
    """``faiss.ResidualQuantizer``: ``beam`` partial codes are kept at training and assignment (5: its default)."""

    beam: int
    progressive: bool  # its default training; without it, plain k-means a level

    def fit(self, rows: Rows, size: Size) -> Any:
        quantizer = faiss.ResidualQuantizer(size.dimensions, size.levels, size.bits)
        quantizer.max_beam_size = self.beam
        if not self.progressive:
            quantizer.train_type = faiss.ResidualQuantizer.Train_default
        quantizer.train(rows)
        return quantizer

    def encode(self, model: Any, rows: Rows) -> Any:
        return model.compute_codes(rows)

    def decode(self, model: Any, codes: Any) -> Rows:
        decoded: Rows = model.decode(codes)
        return decoded


class ScikitLearn:
    """``MiniBatchKMeans`` with its default settings, level by level: what scikit-learn advises for many rows
    (``KMeans`` takes several times as long)."""

    def fit(self, rows: Rows, size: Size) -> list[Any]:
        from sklearn.cluster import MiniBatchKMeans

        levels, left = [], rows
        for level in range(size.levels):
            means = MiniBatchKMeans(2**size.bits, random_state=SEED + level, compute_labels=False).fit(left)
            levels.append(means)
            if level < size.levels - 1:
                left = left - means.cluster_centers_[means.predict(left)]
        return levels

    def encode(self, model: list[Any], rows: Rows) -> npt.NDArray[np.int64]:
        codes, left = [], rows
        for level, means in enumerate(model):
            codes.append(means.predict(left))
            if level < len(model) - 1:
                left = left - means.cluster_centers_[codes[-1]]
        return np.stack(codes, axis=1)

    def decode(self, model: list[Any], codes: npt.NDArray[np.int64]) -> Rows:
        tables = [means.cluster_centers_ for means in model]
        total: Rows = sum(table[codes[:, level]] for level, table in enumerate(tables))
        return total


OURS = "segue"
ENGINES: Mapping[str, Engine] = {
    OURS: Segue(),
    "faiss.ResidualQuantizer": Faiss(beam=5, progressive=True),
    "faiss.ResidualQuantizer, beam 1, plain k-means": Faiss(beam=1, progressive=False),
    "sklearn MiniBatchKMeans": ScikitLearn(),
}
FEWER = {"faiss.ResidualQuantizer": 1, "faiss.ResidualQuantizer, beam 1, plain k-means": 3}  # without warm-up


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a toy size, written nowhere")
    for name, value in asdict(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=None, help=f"{value} by default")
    parser.add_argument("--task", choices=("train", "assign"), help=argparse.SUPPRESS)
    parser.add_argument("--engine", choices=tuple(ENGINES), help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    quick, task, engine = options.pop("quick"), options.pop("task"), options.pop("engine")
    size = Size(
        **{**asdict(QUICK if quick else Size()), **{k: v for k, v in options.items() if v is not None}}
    )
    if task:
        print(peak_of(task, ENGINES[engine], size))
        return
    rows = measure(size)
    if size == Size():
        doc = (__doc__ or "").split("\n\n")[1].replace("\n", " ")
        print(f"wrote {harness.write('tokenizers', doc, COLUMNS, rows, notes=notes())}")
    else:
        print(*rows, "another size than the published one: written nowhere", sep="\n")


def notes() -> list[str]:
    return [
        f"Medians, {workers()} threads for every engine, by turns; low and high are the quickest and the slowest repeat. "
        "A warm-up went before, but for FAISS, whose repeats take minutes.",
        "segue trains on a seeded sample of 131,072 vectors; FAISS on 256 a code (its default); MiniBatchKMeans draws its "
        "batches from all.",
        f"Screen of the assignment: {screen()}. The codes are those of float64 whatever the screen.",
        "Neither segue's codes nor its codebooks depend on the number of threads.",
    ]


def screen() -> str:
    """What the assignment is screened with on this processor."""
    one = [np.ones((1, 1))]
    return "8-bit integers (AMX)" if IntegerScreen.pays(one, np.ones((1, 1), dtype=np.float32)) else "float32"


def vectors(count: int, size: Size, seed: int = SEED) -> Rows:
    """[count, d]: Gaussian clusters whose variance falls along the dimensions, centred."""
    rng = np.random.default_rng(seed)
    spread = (1.0 / np.sqrt(1.0 + np.arange(size.dimensions))).astype(np.float32)
    centres = np.random.default_rng(SEED).standard_normal((CLUSTERS, size.dimensions), dtype=np.float32)
    rows = np.empty((count, size.dimensions), dtype=np.float32)
    for low in range(0, count, _CHUNK):
        part = rows[low : low + _CHUNK]
        rng.standard_normal(part.shape, dtype=np.float32, out=part)
        part *= 0.6
        part += centres[rng.integers(0, CLUSTERS, len(part))]
        part *= spread
    return rows


def measure(size: Size) -> list[dict[str, Any]]:
    """Training, assignment and insertion, each with all of its engines by turns."""
    faiss.omp_set_num_threads(workers())
    with threadpool_limits(limits=workers()):
        rows, models = training(size)
        rows += assignment(size, models)
        rows += insertion(size, models[OURS])
    return with_peaks(rows, size)


def training(size: Size) -> tuple[list[dict[str, Any]], Models]:
    rows = vectors(size.train, size)
    seconds, models = timed({name: partial(each.fit, rows, size) for name, each in ENGINES.items()}, size)
    errors = {
        name: error(engine, models[name], rows, engine.encode(models[name], rows))
        for name, engine in ENGINES.items()
    }
    return _rows(f"train {size.train:,} x {size.dimensions}", seconds, errors, size), models


def assignment(size: Size, models: Models) -> list[dict[str, Any]]:
    rows = vectors(size.assign, size, seed=SEED + 1)
    seconds, codes = timed(
        {name: partial(engine.encode, models[name], rows) for name, engine in ENGINES.items()}, size
    )
    errors = {name: error(engine, models[name], rows, codes[name]) for name, engine in ENGINES.items()}
    return _rows(f"assign {size.assign:,} new", seconds, errors, size)


def timed(
    tasks: Mapping[str, Callable[[], Any]], size: Size
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Seconds of each task, and what it gave."""
    results: dict[str, Any] = {}

    def run(name: str) -> None:
        results[name] = tasks[name]()

    fewer = {name: count for name, count in FEWER.items() if name in tasks}
    return harness.median_seconds({name: partial(run, name) for name in tasks}, size.repeats, fewer), results


def insertion(size: Size, tokenizer: ResidualKMeans) -> list[dict[str, Any]]:
    """New items into an item map; no peer has item maps. A third of them crowd around one point, so that many
    must be sent to other prefixes."""
    book = codebook(size, tokenizer)
    known = vectors(size.insert, size, seed=SEED + 2)
    everyone = np.ones(size.insert, dtype=bool)
    grown = ItemMap.build(book, [f"k{row}" for row in range(size.insert)], known, everyone)
    new = vectors(size.insert, size, seed=SEED + 3)
    new[::3] = new[0] + 0.01 * new[::3]
    ids = [f"n{row}" for row in range(size.insert)]

    def insert() -> ItemMap:
        return grown.insert(book, ids, new, everyone)

    seconds = harness.median_seconds({OURS: insert}, size.repeats)
    return _rows(f"insert {size.insert:,} items into {size.insert:,}", seconds, {}, size)


def codebook(size: Size, tokenizer: ResidualKMeans) -> Codebook:
    """Our tokenizer behind a fusion that changes nothing."""
    width = size.dimensions
    fusion = Fusion(
        modalities={"text": Modality(mean=np.zeros(width), scale=1.0)},
        centre=np.zeros(width),
        components=np.eye(width),
        coefficients=np.zeros((0, 0)),
        intercept=np.zeros(0),
    )
    return Codebook(
        fusion=fusion,
        tokenizer=tokenizer,
        level_sizes=(*(2**size.bits,) * size.levels, 32),
        encoders={"text": EncoderIdentity(name="synthetic", weights_sha256="0")},
    )


def error(engine: Engine, model: Any, rows: Rows, codes: Any) -> float:
    """Σ‖x − x̂‖² / Σ‖x‖²."""
    missed = total = 0.0
    for low in range(0, len(rows), _CHUNK):
        part = rows[low : low + _CHUNK]
        back = engine.decode(model, codes[low : low + _CHUNK])
        missed += float(((part - back) ** 2).sum(dtype=np.float64))
        total += float((part**2).sum(dtype=np.float64))
    return missed / total


def _rows(
    title: str, seconds: Mapping[str, Mapping[str, float]], errors: Mapping[str, float], size: Size
) -> list[dict[str, Any]]:
    peers = [taken["median"] for name, taken in seconds.items() if name != OURS]
    return [
        {
            "task": title,
            "engine": name,
            "seconds": taken["median"],
            "low": taken["low"],
            "high": taken["high"],
            "repeats": min(FEWER.get(name, size.repeats), size.repeats),
            "ratio": taken["median"] / min(peers) if peers else "no peer",
            "error": errors.get(name, "not asked"),
        }
        for name, taken in seconds.items()
    ]


def with_peaks(rows: list[dict[str, Any]], size: Size) -> list[dict[str, Any]]:
    """The rows of training and assignment with their ``peak_mib``."""
    for row in rows:
        task = row["task"].split()[0]
        if task in ("train", "assign"):
            row["peak_mib"] = child_peak(task, row["engine"], size)
    return rows


def child_peak(task: str, engine: str, size: Size) -> float | None:
    """:func:`peak_of` in a process of its own, so that no other task's memory is reused; None away from Linux."""
    if not CLEAR.exists():
        return None
    options = [f"--{name}={value}" for name, value in asdict(size).items()]
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.tokenizers", "--task", task, "--engine", engine, *options],
        cwd=harness.ROOT.parent,
        env={**os.environ, "OMP_NUM_THREADS": str(workers())},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(found.stdout.split()[-1])


def peak_of(task: str, engine: Engine, size: Size) -> float:
    """MiB that the task adds to this process at its highest, beyond the vectors that it was given.

    A toy run first loads the libraries, which are no part of it.
    """
    faiss.omp_set_num_threads(workers())
    toy = Size(**{**asdict(size), "train": 4 * 2**size.bits + 64})
    small = vectors(toy.train, toy)
    model = engine.fit(small, toy)
    engine.encode(model, small)
    rows = vectors(size.train if task == "train" else size.assign, size)
    run: Callable[[], Any] = (
        partial(engine.fit, rows, size) if task == "train" else partial(engine.encode, model, rows)
    )
    before = _resident("VmRSS")
    CLEAR.write_text("5")  # forget the peak so far (proc(5)); the one of getrusage would even be the parent's
    run()
    return max(_resident("VmHWM") - before, 0.0)


def _resident(field: str) -> float:
    """MiB by Linux's own count: ``VmRSS`` now, ``VmHWM`` at the highest."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
