"""What is asked of every path, and what is kept of its answers.

A *case* is one user's last event of a part: the history is what came before it, the event's item is the
target. A path ranks the full catalogue (no sampled negatives: Krichene & Rendle 2020), under the rules that
it serves with, and what is scored is the list that it would have served. No model is imported here: paths
are passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from segue.data.sequences import Sequences
from segue.errors import DataError
from segue.evaluation.metrics import PAD, long_tail, target_ranks
from segue.paths import IndexArray, ListRules, Path, RankedList, Request
from segue.schema import UserGroup

EvaluatedPart = Literal["validation", "test"]
NO_HISTORY, ONE_EVENT = "no_history", "one_event"  # groups of cases, and the slices that are made of them


@dataclass(frozen=True)
class Cases:
    """Requests with what they should have been answered with. U users."""

    requests: list[Request]  # [U]
    targets: IndexArray  # [U] item indices
    groups: npt.NDArray[np.str_]  # [U] regular or new; of beginnings no_history or one_event

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def history_lengths(self) -> IndexArray:
        return np.array([len(request.history) for request in self.requests], dtype=np.int64)

    @property
    def histories(self) -> list[IndexArray]:
        return [request.history for request in self.requests]

    @property
    def user_ids(self) -> list[str]:
        return [request.user_id or "" for request in self.requests]


def build_cases(groups: dict[UserGroup, Sequences], part: EvaluatedPart) -> Cases:
    """The cases of ``part`` of every group, in the groups' order.

    A request carries the history and nothing of the target's event, not even its time, but for the declared context
    features, which a request at that moment would have carried, too. Replay users are
    refused: they are never evaluated offline. A target that is in the history, under rules that hide what
    was seen, counts as a miss: serving would miss it, too. Raises DataError where nobody has a target.
    """
    requests: list[Request] = []
    targets: list[int] = []
    names: list[str] = []
    for group, sequences in groups.items():
        if group == UserGroup.REPLAY:
            raise ValueError("replay users are never evaluated offline")
        for user, position in sequences.targets(part):
            items, timestamps = sequences.user(user)
            requests.append(
                Request(
                    history=np.asarray(items[:position], dtype=np.int64),
                    timestamps=np.asarray(timestamps[:position], dtype=np.int64),
                    user_id=sequences.user_ids[user],
                    context=_context(sequences, user, position),
                )
            )
            targets.append(int(items[position]))
            names.append(group.value)
    if not requests:
        raise DataError(
            f"no user has an event in the {part} part: lower splits.min_history, "
            "or bring users with longer histories"
        )
    return Cases(requests, np.array(targets, dtype=np.int64), np.array(names))


def _context(sequences: Sequences, user: int, position: int) -> dict[str, str]:
    """What a request for the event at ``position`` would have said of its context; nothing where nothing is declared."""
    if sequences.contexts is None or sequences.vocabulary is None:
        return {}
    return sequences.vocabulary.values_of(sequences.contexts[int(sequences.offsets[user]) + position])


def add_beginnings(cases: Cases, new: Sequences, *, by_time: bool) -> Cases:
    """``cases``, and after them how the new users began: each one's first event is the target of a request without a
    history (group ``no_history``), the second that of a request with one event (``one_event``).

    Nothing was trained on these users, so every event of theirs may be a target. Of a split by time only events of the
    test part are: what the models know would otherwise be younger than the request. Where no new user qualifies, the
    two groups are empty.
    """
    requests, targets, groups = [*cases.requests], cases.targets.tolist(), cases.groups.tolist()
    for place, group in enumerate((NO_HISTORY, ONE_EVENT)):
        for user in range(len(new)):
            items, timestamps = new.user(user)
            if place >= len(items) or (by_time and not 0 <= new.test_at[user] <= place):
                continue
            requests.append(
                Request(
                    history=np.asarray(items[:place], dtype=np.int64),
                    timestamps=np.asarray(timestamps[:place], dtype=np.int64),
                    user_id=new.user_ids[user],
                    context=_context(new, user, place),
                )
            )
            targets.append(int(items[place]))
            groups.append(group)
    return Cases(requests, np.array(targets, dtype=np.int64), np.array(groups))


@dataclass(frozen=True)
class PathLists:
    """What one path answered. Positions past the end of a list are PAD, their scores NaN."""

    lists: IndexArray  # [U, K] item indices
    scores: npt.NDArray[np.float32]  # [U, K]
    sources: npt.NDArray[np.int32]  # [U, K] positions in source_names
    source_names: tuple[str, ...]
    ranks: IndexArray  # [U] of the target, from 0; -1 where the list misses it


def evaluate_path(
    path: Path,
    cases: Cases,
    rules: ListRules,
    k: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> PathLists:
    """Ask ``path`` for a list of ``k`` for every case, ``batch_size`` at a time.

    ``progress`` is called with the users done and all users. Raises ValueError where the path breaks its
    protocol (another number of lists, a list longer than ``k``, scores that rise).
    """
    users = len(cases)
    lists = np.full((users, k), PAD, dtype=np.int64)
    scores = np.full((users, k), np.nan, dtype=np.float32)
    sources = np.full((users, k), PAD, dtype=np.int32)
    names: dict[str, int] = {}
    for start in range(0, users, batch_size):
        batch = cases.requests[start : start + batch_size]
        answers = path.recommend(batch, k, rules)
        if len(answers) != len(batch):
            raise ValueError(f"path {path.name} answered {len(batch)} requests with {len(answers)} lists")
        for row, answer in enumerate(answers, start):
            _check(path, answer, k)
            size = len(answer.items)
            lists[row, :size] = answer.items
            scores[row, :size] = answer.scores
            sources[row, :size] = [names.setdefault(name, len(names)) for name in answer.sources]
        if progress is not None:
            progress(min(start + batch_size, users), users)
    return PathLists(lists, scores, sources, tuple(names), target_ranks(lists, cases.targets))


def _check(path: Path, answer: RankedList, k: int) -> None:
    size = len(answer.items)
    if size > k or len(answer.scores) != size or len(answer.sources) != size:
        raise ValueError(f"path {path.name}: {size} items for k = {k}, {len(answer.scores)} scores")
    if size > 1 and not np.all(np.diff(answer.scores) <= 0):
        raise ValueError(f"path {path.name}: scores must fall along the list")


def head_agreement(
    path: Path, cases: Cases, rules: ListRules, lists: IndexArray, k: int, users: int
) -> tuple[float, int]:
    """Is a list of ``k`` the head of the longer one that was scored? (Share of equal positions, users asked.)

    Serving asks for ``k``, the evaluation for more. The first ``users`` cases are asked again with ``k``.
    """
    sample = cases.requests[:users]
    if not sample:
        return float("nan"), 0
    served = np.full((len(sample), k), PAD, dtype=np.int64)
    for row, answer in enumerate(path.recommend(sample, k, rules)):
        served[row, : len(answer.items)] = answer.items
    return float((served == lists[: len(sample), :k]).mean()), len(sample)


def slices(
    cases: Cases, train_counts: IndexArray, *, long_tail_share: float, short_history: int
) -> dict[str, npt.NDArray[np.bool_]]:
    """Who belongs to which slice, ``bool [U]`` each.

    ``all``: the regular users; ``new_users``: users never trained on, in no other slice. Of the regular
    users: ``long_tail`` (the target is among the least popular items that make up ``long_tail_share`` of
    the catalogue), ``short_history`` (at most ``short_history`` events before the target), ``new_items``
    (nobody has the target in the training part; may be empty). ``no_history`` and ``one_event``: the beginnings of
    :func:`add_beginnings`, in no other slice.
    """
    regular = cases.groups == UserGroup.REGULAR.value
    return {
        "all": regular,
        "new_users": cases.groups == UserGroup.NEW.value,
        "long_tail": regular & long_tail(train_counts, long_tail_share)[cases.targets],
        "short_history": regular & (cases.history_lengths <= short_history),
        "new_items": regular & (train_counts[cases.targets] == 0),
        NO_HISTORY: cases.groups == NO_HISTORY,
        ONE_EVENT: cases.groups == ONE_EVENT,
    }


def audience(sequences: Sequences, items: int) -> IndexArray:
    """``int64 [N]``: how many users have each item (each user once)."""
    owners = np.repeat(np.arange(len(sequences)), np.diff(sequences.offsets))
    pairs = np.unique(owners.astype(np.int64) * items + np.asarray(sequences.items, dtype=np.int64))
    return np.bincount(pairs % items, minlength=items).astype(np.int64)
