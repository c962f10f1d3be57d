"""What every contender of a benchmark is given: the same events, the same content, the same users to be judged by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from segue.canonical import sha256_of
from segue.data.sequences import Sequences
from segue.encoders.collaborative import consumed_together, told_by_company
from segue.errors import ArtifactError, DataError
from segue.evaluation.protocol import Cases, build_cases
from segue.items import Items, ItemVectors
from segue.params import Params
from segue.protocols import BoundItems
from segue.schema import Part, UserGroup
from segue.steps.registry import EMBEDDINGS
from segue.tokenizers.alignment import Alignment
from segue.tokenizers.codebook import Codebook, EncoderIdentity
from segue.tokenizers.embeddings import load_modalities
from segue.tokenizers.item_map import ItemMap
from segue.tokenizers.settings import TokenizerSettings
from segue.workspace import Workspace

JudgedPart = Literal["validation", "test"]

_COLLABORATIVE = "collaborative"  # the modality that training events make
SEED = 17  # of the users that are drawn, and of the bootstrap


@dataclass(frozen=True)
class World:
    """N items, U regular users. ``validated`` knows no test target, so nothing that selects can read one."""

    dataset: str
    params: Params
    items: Items
    regular: Sequences
    training: Sequences  # the training part of ``regular``, less what is held back
    validated: Sequences  # ``regular`` with the validation targets of the users that models are chosen by
    modalities: dict[str, ItemVectors]
    encoders: dict[str, EncoderIdentity]
    content_sha256: str  # of the events, the items and their content
    validation_gap: bool = False  # whether ``training`` lacks the event before a validation target
    held_back: int = 0  # so many events of the training part
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    _bound: dict[str, BoundItems] = field(default_factory=dict)

    @cached_property
    def fitted_sha256(self) -> str:
        """Of what models are trained on and chosen by."""
        digest = hashlib.sha256()
        for array in (self.training.items, self.training.offsets, self.validated.validation_at):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def bound(self, tokenizer: TokenizerSettings) -> BoundItems:
        """The items under the codebook that ``tokenizer`` makes of the training part; made once."""
        key = sha256_of(tokenizer.described())
        if key not in self._bound:
            wanted = {
                name: each for name, each in self.modalities.items() if tokenizer.modality_weights.get(name)
            }
            codebook = Codebook.fit(wanted, self.encoders, tokenizer, self._pairs(tokenizer))
            vectors, present = codebook.fuse(self.modalities)
            self._bound[key] = ItemMap.build(codebook, self.items.ids, vectors, present).bound()
        return self._bound[key]

    def _pairs(self, tokenizer: TokenizerSettings) -> npt.NDArray[np.int64] | None:
        if tokenizer.fusion != Alignment.name:
            return None
        return consumed_together(
            self.training,
            len(self.items),
            window=tokenizer.alignment.window,
            count=tokenizer.alignment.pairs,
            seed=tokenizer.seed,
        )

    def content(self, tokenizer: TokenizerSettings) -> npt.NDArray[np.float32]:
        """[N, D] what a generative model reads of the items: the fused vectors, of unit length; zeros where an item has
        none."""
        items = self.bound(tokenizer)
        vectors = items.vectors.numpy() * items.present.numpy()[:, None]
        lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        unit: npt.NDArray[np.float32] = (vectors / lengths).astype(np.float32)
        return unit

    def cases(self, part: JudgedPart, users: int | None) -> Cases:
        """The requests of ``part``: of ``users`` users drawn by the benchmark's seed, or of all (None)."""
        sequences = self.regular if users is None else some_users(self.regular, users, part)
        return build_cases({UserGroup.REGULAR: sequences}, part)

    def validation_cases(self) -> Cases:
        """Those that models are chosen by."""
        return build_cases({UserGroup.REGULAR: self.validated}, "validation")


def load_world(
    workspace: Workspace,
    dataset: str,
    params: Params,
    *,
    validation_users: int | None,
    validation_gap: bool = False,
    device: Literal["cpu", "cuda"],
    threads: int,
) -> World:
    """The world of ``dataset``, its models chosen by ``validation_users`` users (None: by all).

    With ``validation_gap`` training lacks the event before the validation target of these users (:func:`without_ends`).

    Raises ArtifactError where a step up to the embeddings has not run, DataError where nobody can be judged.
    """
    needed = ("splits", "sequences", *EMBEDDINGS)
    missing = [step for step in needed if not (workspace.step(dataset, step) / "manifest.json").is_file()]
    if missing:
        raise ArtifactError(
            f"{dataset} lacks the step{'s' if len(missing) > 1 else ''} {', '.join(missing)}: "
            f"run `segue run --dataset {dataset}`, or `segue step <name> --dataset {dataset}` one by one"
        )
    items = Items.load(workspace.step(dataset, "splits"))
    modalities, encoders = load_modalities(
        {name: workspace.step(dataset, name) for name in EMBEDDINGS}, items
    )
    regular = Sequences.load(workspace.step(dataset, "sequences") / UserGroup.REGULAR.value)
    modalities = {name: each for name, each in modalities.items() if each.present.any()}
    return make_world(
        dataset,
        params,
        items,
        regular,
        modalities,
        encoders,
        validation_users=validation_users,
        validation_gap=validation_gap,
        device=device,
        threads=threads,
    )


def make_world(
    dataset: str,
    params: Params,
    items: Items,
    regular: Sequences,
    modalities: dict[str, ItemVectors],
    encoders: dict[str, EncoderIdentity],
    *,
    validation_users: int | None = None,
    validation_gap: bool = False,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int = 1,
) -> World:
    """See :func:`load_world`. Raises DataError where no user has a validation target."""
    if not regular.targets("validation"):
        raise DataError(f"no regular user of {dataset} has a validation event: models cannot be chosen")
    chosen = (
        regular if validation_users is None else some_users(regular, validation_users, Part.VALIDATION.value)
    )
    training = everything = regular.training_part()
    if validation_gap:
        training = without_ends(everything, chosen.validation_at >= 0)
        if _COLLABORATIVE in modalities:
            told = told_by_company(training, modalities[_COLLABORATIVE].item_ids, params.encoders)
            modalities = {**modalities, _COLLABORATIVE: told}
    return World(
        dataset=dataset,
        params=params,
        items=items,
        regular=regular,
        training=training,
        validated=replace(chosen, test_at=np.full(len(regular), -1, dtype=np.int32)),
        modalities=modalities,
        encoders=encoders,
        content_sha256=_content_sha256(items, regular, modalities),
        validation_gap=validation_gap,
        held_back=len(everything.items) - len(training.items),
        device=device,
        threads=threads,
    )


def without_ends(training: Sequences, users: npt.NDArray[np.bool_]) -> Sequences:
    """``training`` without the last event of each of the chosen ``users`` [U].

    A test history ends with an event that no model was trained on. A validation history is training data to its end,
    unless it ends with an event that is held back (ADR 0020). A user's only event stays, and so does an item's last one
    anywhere: a model would have no row for it.
    """
    keep = np.diff(training.offsets).astype(np.int64)
    left = np.bincount(training.items)
    for user in np.flatnonzero(users & (keep > 1)):
        last = training.items[training.offsets[user + 1] - 1]
        if left[last] > 1:
            left[last] -= 1
            keep[user] -= 1
    return training.first(keep)


def some_users(sequences: Sequences, count: int, part: JudgedPart) -> Sequences:
    """The same sequences with targets in ``part`` of ``count`` users alone, drawn with the benchmark's seed."""
    able = np.array([user for user, _ in sequences.targets(part)], dtype=np.int64)
    chosen = np.zeros(len(sequences), dtype=bool)
    chosen[np.random.default_rng(SEED).choice(able, size=min(count, len(able)), replace=False)] = True
    if part == Part.VALIDATION.value:
        return replace(sequences, validation_at=_where(chosen, sequences.validation_at))
    return replace(sequences, test_at=_where(chosen, sequences.test_at))


def _where(chosen: npt.NDArray[np.bool_], at: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    return np.where(chosen, at, -1).astype(np.int32)


def _content_sha256(items: Items, sequences: Sequences, modalities: dict[str, ItemVectors]) -> str:
    digest = hashlib.sha256()
    for array in (
        sequences.items,
        sequences.timestamps,
        sequences.offsets,
        sequences.validation_at,
        sequences.test_at,
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    for name, each in sorted(modalities.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(each.vectors).tobytes())
        digest.update(np.ascontiguousarray(each.present).tobytes())
    return sha256_of([digest.hexdigest(), items.ids])
