"""The serving check: a bundle behind a real server process, asked over HTTP, every answer verified."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl

from segue.errors import SegueError
from segue.items import Items
from segue.schema import Interactions, PathName, Split, UserGroup
from segue.serving.engine import Engine, History

_WARM_UP = 4  # requests per path that are not counted: the process's first ones
_STOP_SECONDS = 5.0
PERCENTILES = (50, 95, 99)


class ServerError(SegueError):
    """The server did not start. The message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Case:
    """A user and everything they did, oldest first."""

    user_id: str
    item_ids: list[str]
    timestamps: list[int] | None


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one request. ``status`` 0: no answer at all."""

    status: int
    latency_ms: float
    items: int = 0
    invalid: int = 0  # items that the catalogue lacks, or that the list shows twice
    seen: int = 0
    fallback: bool = False


def sample_cases(splits: Path, count: int, seed: int) -> list[Case]:
    """``count`` regular users with their whole history; nobody twice while there are enough."""
    items = Items.load(splits)
    histories = (
        pl.read_parquet(splits / "interactions.parquet")
        .filter(pl.col(Split.GROUP) == UserGroup.REGULAR.value)
        .sort(Interactions.USER, Split.POSITION)
        .group_by(Interactions.USER, maintain_order=True)
        .agg(Split.ITEM_INDEX, Interactions.TIMESTAMP)
    )
    if histories.is_empty():
        return []
    generator = np.random.default_rng(seed)
    rows = generator.permutation(histories.height)[:count]
    if len(rows) < count:
        rows = np.concatenate([rows, generator.integers(0, histories.height, count - len(rows))])
    cases = []
    for user, indices, times in histories[rows.tolist()].iter_rows():
        timed = all(when is not None for when in times)
        cases.append(Case(user, [items.ids[index] for index in indices], list(times) if timed else None))
    return cases


@contextmanager
def server(
    target: str,
    *,
    environment: Mapping[str, str],
    log: Path,
    start_seconds: float,
    folder: Path | None = None,
) -> Iterator[str]:
    """A ``bentoml serve`` process on a free loopback port; its base URL. It is stopped whatever happens.

    Args:
        target: a Bento's tag, or an import path such as ``bento.service:Recommender``.
        environment: added to this process's own.
        log: where its output goes.
        start_seconds: how long it may take until it is ready.
        folder: where it runs.

    Raises ServerError where it does not get ready.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port)],
            env=os.environ | {"BENTOML_DO_NOT_TRACK": "True"} | dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,  # so that its workers are stopped with it
        )
        try:
            _wait_until_ready(process, url, log, start_seconds)
            yield url
        finally:
            _stop(process)


def ask(
    url: str,
    path: PathName,
    cases: Sequence[Case],
    *,
    k: int,
    concurrency: int,
    catalogue: Mapping[str, int],
    filter_seen: bool = True,
) -> list[Finding]:
    """Send every case once, ``concurrency`` at a time, and look at each answer."""
    with httpx.Client(base_url=url, timeout=30, limits=httpx.Limits(max_connections=concurrency)) as client:

        def one(case: Case) -> Finding:
            body = {"history": case.item_ids, "timestamps": case.timestamps, "k": k, "path": path.value}
            started = time.perf_counter()
            try:
                response = client.post("/recommend", json=body)
            except httpx.HTTPError:
                return Finding(0, (time.perf_counter() - started) * 1000)
            latency = (time.perf_counter() - started) * 1000
            if response.status_code != 200:
                return Finding(response.status_code, latency)
            return inspect_answer(response.json(), case, path, latency, catalogue, filter_seen=filter_seen)

        for case in cases[:_WARM_UP]:
            one(case)
        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(one, cases))


def inspect_answer(
    answer: Mapping[str, Any],
    case: Case,
    path: PathName,
    latency_ms: float,
    catalogue: Mapping[str, int],
    *,
    filter_seen: bool = True,
) -> Finding:
    """One answer against the catalogue and the user's history."""
    ids = [item["item_id"] for item in answer["items"]]
    seen = set(case.item_ids) if filter_seen else set()
    return Finding(
        status=200,
        latency_ms=latency_ms,
        items=len(ids),
        invalid=sum(item not in catalogue for item in ids) + len(ids) - len(set(ids)),
        seen=sum(item in seen for item in ids),
        fallback=answer["path"] != path.value,
    )


def summarize(findings: Sequence[Finding]) -> dict[str, float | int]:
    """Counts, rates and latency percentiles (ms, of answered requests) of one path."""
    answered = [finding for finding in findings if finding.status == 200]
    shown = sum(finding.items for finding in answered)
    invalid, seen = sum(f.invalid for f in answered), sum(f.seen for f in answered)
    errors, empty = len(findings) - len(answered), sum(f.items == 0 for f in answered)
    fallbacks = sum(f.fallback for f in answered)
    latencies = [f.latency_ms for f in answered]
    result: dict[str, float | int] = {
        "requests": len(findings),
        "errors": errors,
        "items": shown,
        "invalid_items": invalid,
        "seen_items": seen,
        "empty_lists": empty,
        "fallbacks": fallbacks,
        "error_rate": errors / max(1, len(findings)),
        "invalid_rate": invalid / max(1, shown),
        "seen_rate": seen / max(1, shown),
        "empty_rate": empty / max(1, len(answered)),
        "fallback_rate": fallbacks / max(1, len(answered)),
    }
    # Every worker is busy all the time, so requests a second = concurrency / mean (Little 1961).
    result["latency_mean_ms"] = float(np.mean(latencies)) if latencies else np.nan
    for percent in PERCENTILES:
        # Of nothing there is no percentile; a gate sees NaN as missing evidence, which is a HOLD.
        result[f"latency_p{percent}_ms"] = float(np.percentile(latencies, percent)) if latencies else np.nan
    return result


def overlap(
    one: Engine, other: Engine, path: PathName, cases: Sequence[Case], k: int, batch_size: int = 32
) -> list[float]:
    """Per user, the share of the first ``k`` items that both engines' lists by ``path`` have in common."""
    shares = []
    for start in range(0, len(cases), batch_size):
        histories = [
            History(item_ids=case.item_ids, timestamps=case.timestamps)
            for case in cases[start : start + batch_size]
        ]
        lists = zip(
            one.recommend(histories, path=path, k=k), other.recommend(histories, path=path, k=k), strict=True
        )
        for left, right in lists:
            common = {item.item_id for item in left.items} & {item.item_id for item in right.items}
            shares.append(len(common) / max(1, len(left.items), len(right.items)))
    return shares


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(f"the server ended with code {process.returncode}:\n{_tail(log)}")
        try:
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)  # not listening yet
        else:
            time.sleep(0.1)
    raise ServerError(
        f"the server was not ready after {seconds:.0f} s (serving.check_start_seconds):\n{_tail(log)}"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the server and its workers: politely, then for good."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    try:
        os.killpg(process.pid, signal.SIGKILL)  # workers that outlived their parent
    except ProcessLookupError:
        return
    finally:
        process.wait()


def _tail(log: Path, characters: int = 2000) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-characters:]
