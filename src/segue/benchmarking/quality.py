"""The quality benchmark: every contender fitted on one dataset under one protocol, and judged by the same users.

A contender's settings are those of a file (tuned elsewhere), or what a study of so many trials finds, by NDCG@10 on
validation, the trials and the rule that caps epochs being the same for all. With them it is fitted once a seed: on the
training part, the best epoch by validation, nothing fitted again afterwards. Then the judged part is read, once a
contender and seed, and nothing is chosen by it.

What is finished is kept under a folder and not repeated. A fit is known by the data, its settings and the sources of the
code that makes it; a record besides by the part and the users that were judged. So a stopped benchmark goes on where it
was, inside an epoch where training keeps checkpoints. A record says on which machine its model was trained, but is not known
by it: one that a GPU made elsewhere is good here. A fit that is under way goes on only where it began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segue.artifacts import read_json, write_json
from segue.benchmarking.chosen import ChosenSettings
from segue.benchmarking.contender import CHECKPOINTS, Contender, Fit, Fitted, Progress
from segue.benchmarking.contenders import CONTENDERS, contender
from segue.benchmarking.provenance import processor
from segue.benchmarking.world import JudgedPart, World
from segue.canonical import sha256_of
from segue.errors import ConfigurationError
from segue.paths import ListRules
from segue.settings import Settings
from segue.steps.runner import code_version
from segue.tokenizers.settings import TokenizerSettings
from segue.training.loop import saved_history
from segue.training.study import TrialHandle, run_study

K = 10  # the length of a list
_TUNING_SEED = 17
_READS = "test_reads.json"
_WHERE = {"device", "threads"}  # of settings: they name the machine, not the model


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be compared, and how. Raises ConfigurationError for an unknown contender, and for none."""

    models: Sequence[str]
    seeds: Sequence[int] = (1, 2, 3)
    trials: int = 0  # of each contender's study; 0: the settings as they stand
    epochs: int | None = None  # the most that any contender is trained; None: its own cap
    part: JudgedPart = "test"
    users: int | None = None  # that are judged, drawn by a seed; None: all
    filter_seen: Sequence[bool] = (True, False)

    def __post_init__(self) -> None:
        if not self.models or not self.seeds:
            raise ConfigurationError("there is nothing to compare: name at least one model and one seed")
        for name in self.models:
            contender(name)


class Benchmark:
    """The contenders of a plan over a world; ``folder`` is where runs are kept."""

    def __init__(
        self, world: World, plan: Plan, chosen: ChosenSettings, folder: Path, progress: Progress
    ) -> None:
        """Raises ConfigurationError for settings that do not fit."""
        self._world, self._plan, self._chosen = world, plan, chosen
        self._folder, self._progress = folder, progress
        self._settings: dict[str, Settings] = {}
        for name in plan.models:
            self._begin_with(contender(name))

    def records(self) -> list[dict[str, Any]]:
        """One a contender and seed: from before, or made now. Seed by seed, so that a stopped benchmark has whole ones."""
        torch.set_num_threads(self._world.threads)
        order = [name for name in CONTENDERS if name in self._plan.models]
        return [
            self._record(contender(name), seed)
            for seed in self._plan.seeds
            for name in order
            if contender(name).seeded or seed == self._plan.seeds[0]
        ]

    # Settings.

    def _begin_with(self, one: Contender) -> tuple[Settings, TokenizerSettings]:
        return (
            self._chosen.settings(one, self._world, self._plan.epochs),
            self._chosen.tokenizer_of(one.name, self._world),
        )

    def _settings_of(self, one: Contender, seed: int) -> Settings:
        """The settings that ``one`` is fitted with, tuned where the plan has trials for it."""
        if one.name not in self._settings:
            first, _ = self._begin_with(one)
            tunable = bool(one.space.ranges or one.space.choices)
            self._settings[one.name] = self._tuned(one, first) if self._plan.trials and tunable else first
        return self._settings[one.name].model_copy(update={"seed": seed})

    def _tuned(self, one: Contender, first: Settings) -> Settings:
        first = first.model_copy(update={"seed": _TUNING_SEED})
        folder = self._folder / "studies" / self._placed(one, first)

        def objective(handle: TrialHandle) -> float:
            settings = one.space.suggest(handle.trial, first)

            own = folder / f"trial-{handle.index}"

            def report(epoch: int, metrics: Mapping[str, float]) -> None:
                handle.report(epoch, metrics["validation"], metrics)

            for epoch, metrics in enumerate(saved_history(own / CHECKPOINTS)):  # of a killed study
                report(epoch, metrics)
            return self._fit(one, settings, own, report, handle.progress).validation

        study = run_study(
            objective,
            name=f"quality-{one.name}",
            storage=folder / "study.journal",
            trials=self._plan.trials,
            seed=_TUNING_SEED,
            first=one.space.point(first),
            progress=lambda line: self._progress(f"{one.name}: {line}"),
        )
        return one.space.settings_of(study.best_params, first)

    # Fits.

    def _fit_key(self, one: Contender, settings: Settings) -> str:
        tokenizer = self._chosen.tokenizer_of(one.name, self._world)
        needed = [
            self._fit_key(part, self._settings_of(part, self._seed_of(settings)))
            for part in map(contender, one.needs)
        ]
        world = self._world
        return sha256_of(
            [
                one.name,
                _described(settings),
                tokenizer.described(),
                world.content_sha256,
                world.params.decoding.described() if one.generative else None,
                world.fitted_sha256,
                code_version(one.code),
                needed,
            ]
        )

    @staticmethod
    def _seed_of(settings: Settings) -> int:
        seed: int = settings.model_dump()["seed"]
        return seed

    def _fit(
        self,
        one: Contender,
        settings: Settings,
        folder: Path,
        report: Any = None,
        progress: Progress | None = None,
    ) -> Fitted:
        """What is fitted already is read back from its checkpoints, the parts that ``one`` needs among it."""
        seed = self._seed_of(settings)
        parts = {
            part.name: self._fit(part, own, self._fit_folder(part, own))
            for part in map(contender, one.needs)
            for own in [self._settings_of(part, seed)]
        }
        folder.mkdir(parents=True, exist_ok=True)
        return one.fit(
            Fit(
                world=self._world,
                settings=settings,
                tokenizer=self._chosen.tokenizer_of(one.name, self._world),
                folder=folder,
                report=report,
                progress=progress or (lambda line: self._progress(f"{one.name}, seed {seed}: {line}")),
                parts=parts,
            )
        )

    def _fit_folder(self, one: Contender, settings: Settings) -> Path:
        return self._folder / "fits" / self._placed(one, settings)

    def _placed(self, one: Contender, settings: Settings) -> str:
        """The name of a folder for what is under way on this machine."""
        here = [self._world.device, self._world.threads]
        return f"{one.name}-{sha256_of([self._fit_key(one, settings), *here])[:16]}"

    # Judging.

    def _record(self, one: Contender, seed: int) -> dict[str, Any]:
        plan, world = self._plan, self._world
        settings = self._settings_of(one, seed)
        key = sha256_of(
            [
                self._fit_key(one, settings),
                plan.part,
                plan.users,
                list(plan.filter_seen),
                K,
                code_version(("benchmarking.answers",)),
            ]
        )
        file = self._folder / "records" / f"{one.name}-{seed}-{key[:16]}.json"
        if file.is_file():
            found = read_json(file)
            assert isinstance(found, dict)
            if plan.part == "test":  # other settings may have read it since
                found["test_reads_in_all"] = max(found["test_reads_in_all"], self._reads(one, seed))
            return found
        self._progress(f"{one.name}, seed {seed}: begins")
        fitted = self._fit(one, settings, self._fit_folder(one, settings))
        described = _described(settings)
        reads = self._count_read(one, seed) if plan.part == "test" else 0
        record = {
            "dataset": world.dataset,
            "model": one.name,
            "generative": one.generative,
            "seed": seed,
            "part": plan.part,
            "settings": described,
            "settings_sha256": sha256_of([described, self._chosen.tokenizer_of(one.name, world).described()]),
            "trials": plan.trials if one.space.ranges or one.space.choices else 0,
            "validation": fitted.validation,
            "parameters": fitted.parameters,
            "train_seconds": fitted.train_seconds,
            "wall_seconds": fitted.wall_seconds,
            "threads": world.threads,
            "trained_on": torch.cuda.get_device_name() if world.device == "cuda" else processor(),
            "epochs": fitted.epochs,
            "best_epoch": fitted.best_epoch,
            "curve": fitted.curve,
            "facts": dict(fitted.facts),
            "test_reads_in_all": reads,
            "judged": self._judged(fitted),
        }
        write_json(file, record)
        self._progress(f"{one.name}, seed {seed}: validation {fitted.validation:.4f}")
        return record

    def _judged(self, fitted: Fitted) -> list[dict[str, Any]]:
        """Ranks of the targets by head and by whether seen items are hidden; the part is read once for all of them."""
        cases = self._world.cases(self._plan.part, self._plan.users)
        found = []
        for filter_seen in self._plan.filter_seen:
            rules = ListRules(filter_seen=filter_seen)
            for head, answer in fitted.judge(cases, rules, K).items():
                found.append(
                    {
                        "head": head,
                        "filter_seen": filter_seen,
                        "beam_share": answer.beam_share,
                        "ranks": answer.ranks.tolist(),
                    }
                )
        return found

    def _reads(self, one: Contender, seed: int) -> int:
        """How often the test part was read for this contender and seed, under whatever settings."""
        return self._all_reads().get(_seeded(one, seed), 0)

    def _count_read(self, one: Contender, seed: int) -> int:
        """The same, this time included."""
        found, name = self._all_reads(), _seeded(one, seed)
        found[name] = found.get(name, 0) + 1
        write_json(self._folder / _READS, found)
        return found[name]

    def _all_reads(self) -> dict[str, int]:
        file = self._folder / _READS
        found = read_json(file) if file.is_file() else {}
        assert isinstance(found, dict)
        return found


def _seeded(one: Contender, seed: int) -> str:
    return f"{one.name}, seed {seed}"


def _described(settings: Settings) -> dict[str, Any]:
    return {name: value for name, value in settings.described().items() if name not in _WHERE}
