"""What semantic IDs are worth downstream: ``python -m benchmarks.semantic_ids --dataset D --vary modalities``.

One generative model, one budget, several codebooks. For each variant and seed: codebook, item map, training on the training
part, fusion weight chosen on validation, and NDCG@10 of the list that would be served on the test part (full ranking, seen
items filtered). Test is read once a variant and seed, and nothing is chosen by it. ``--vary modalities`` leaves modalities
out, ``--vary tokenizers`` changes the quantizer, ``--vary insertion`` withholds a seeded 5 % of the items with all their
events from everything that is fitted, inserts them afterwards, and asks for them.

The steps up to the embeddings must have run for the dataset (``segue run``, or ``segue step`` one by one). Finished runs
are kept under ``state/`` and not repeated, so a stopped benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks import harness
from segue.artifacts import read_json, write_json
from segue.canonical import sha256_of, sha256_of_file
from segue.data.sequences import Sequences
from segue.encoders.collaborative import consumed_together, told_by_company
from segue.errors import ConfigurationError
from segue.evaluation.bootstrap import mean_intervals
from segue.evaluation.metrics import ndcg, recall, relevance
from segue.evaluation.protocol import Cases, build_cases, evaluate_path
from segue.generative.path import GenerativePath, path_of
from segue.generative.settings import GenerativeSettings
from segue.generative.training import choose_fusion, train
from segue.items import Items, ItemVectors
from segue.params import Params, load_params
from segue.paths import ListRules, Request
from segue.protocols import BoundItems
from segue.schema import UserGroup
from segue.steps.registry import EMBEDDINGS
from segue.steps.runner import code_version
from segue.tokenizers.codebook import Codebook, EncoderIdentity
from segue.tokenizers.embeddings import load_modalities
from segue.tokenizers.fusion import select
from segue.tokenizers.item_map import ItemMap
from segue.tokenizers.quality import codes_quality
from segue.tokenizers.settings import TokenizerSettings
from segue.workspace import Workspace

K = 10
SEED = 17  # of what is withheld, and of the bootstrap
WITHHELD = 0.05
LEAST_EVENTS = 5  # of an item that is withheld: rarer ones would hardly be asked for
ASKED_FOR_KNOWN = 5_000  # users whose lists say what insertion costs the known items
SOURCES = (
    "encoders.collaborative",
    "tokenizers",
    "generative",
    "decoding",
    "training",
    "evaluation",
    "ranking",
)
SAMPLES = 2000

MODALITIES: dict[str, dict[str, Any]] = {
    "all": {},
    "text": {"modality_weights": {"text": 1.0}},
    "image": {"modality_weights": {"image": 1.0}},
    "collaborative": {"modality_weights": {"collaborative": 1.0}},
    "all but images": {"modality_weights": {"text": 1.0, "attribute": 1.0, "collaborative": 2.0}},
    "all, contrastive": {"fusion": "contrastive"},
}
TOKENIZERS: dict[str, dict[str, Any]] = {
    "residual_kmeans": {},
    "balanced_residual_kmeans": {"name": "balanced_residual_kmeans"},
    "rqvae": {"name": "rqvae"},
    "product_quantization": {"name": "product_quantization"},
}
INSERTION: dict[str, dict[str, Any]] = {name: {"fusion": name} for name in ("concat_pca", "contrastive")}
VARIANTS = {"modalities": MODALITIES, "tokenizers": TOKENIZERS, "insertion": INSERTION}


@dataclass(frozen=True)
class World:
    """What every variant shares."""

    params: Params
    items: Items
    regular: Sequences
    judged: Sequences  # the same, with the targets of those users whose lists are judged
    modalities: dict[str, ItemVectors]
    encoders: dict[str, EncoderIdentity]
    generative: GenerativeSettings
    content: str  # hash of the data, and of the settings that every variant is judged by


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--vary", choices=sorted(VARIANTS), required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument(
        "--levels", type=int, nargs="+", default=None, help="level sizes, the last disambiguates"
    )
    parser.add_argument(
        "--users",
        type=int,
        default=None,
        help="lists of so many users are judged, drawn by a seed; default: of all",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the parameters")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=None, help="of one run; default: those of the profile")
    parser.add_argument("--only", nargs="+", default=None, help="some of the variants")
    arguments = parser.parse_args()
    if arguments.users and arguments.vary == "insertion":
        parser.error("--users is not of --vary insertion, whose lists are of all who took a withheld item")
    workspace = Workspace.find()
    world = load(workspace, arguments.dataset, arguments.epochs, arguments.device, arguments.set)
    if arguments.users:
        world = replace(world, judged=some_users(world.regular, arguments.users))
    if arguments.threads:
        world = replace(world, generative=world.generative.model_copy(update={"threads": arguments.threads}))
    runs = workspace.state(arguments.dataset) / "benchmarks" / "semantic_ids"
    torch.set_num_threads(world.generative.threads)
    play = insertion if arguments.vary == "insertion" else downstream
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(1, arguments.seeds + 1):
        for variant, changes in VARIANTS[arguments.vary].items():
            if arguments.only and variant not in arguments.only:
                continue
            if "level_sizes" not in changes and arguments.levels:
                changes = {**changes, "level_sizes": arguments.levels}
            found.setdefault(variant, []).append(
                once(runs, arguments.vary, variant, changes, seed, world, play)
            )
    rows = insertion_rows(found) if arguments.vary == "insertion" else downstream_rows(found)
    if arguments.vary == "tokenizers":
        rows.append(faiss_row(runs, world, arguments.levels))
    for row in rows:
        row["dataset"] = arguments.dataset
    columns = ["dataset", *(name for name in rows[0] if name != "dataset")]
    path = harness.write(
        f"semantic_ids_{arguments.vary}_{arguments.dataset}".replace("-", "_"),
        __doc__.split("\n\n")[1].replace("\n", " "),
        columns,
        rows,
        notes=[
            f"{arguments.seeds} seeds (of quantizer and model); intervals are user-level bootstrap intervals of the mean over "
            "the seeds; differences are paired by user",
            f"house model, {arguments.epochs} epochs, no tuning; settings otherwise those of params.yaml and the profile",
            *made_elsewhere([run for records in found.values() for run in records]),
            *(
                [
                    f"{WITHHELD:.0%} of the items with at least {LEAST_EVENTS} events, drawn with seed {SEED}, withheld with "
                    "all their events; a user's last event on one is a target, what came before (withheld items left out) the "
                    "history; popularity and item-to-item know nothing of a new item, so theirs is 0 by construction; "
                    "content-kNN ranks by the cosine of text, picture and attribute vectors with the mean of the history's; "
                    f"asked for known: the test targets of {ASKED_FOR_KNOWN:,} users at most that are no withheld items, before "
                    "these were inserted and after"
                ]
                if arguments.vary == "insertion"
                else [f"{len(world.judged.targets('test')):,} test users, one target each"]
            ),
        ],
        arguments=sys.argv[1:],
    )
    print(f"wrote {path}")


def load(workspace: Workspace, dataset: str, epochs: int, device: str, overrides: list[str]) -> World:
    params = load_params(workspace, dataset, overrides)
    items = Items.load(workspace.step(dataset, "splits"))
    modalities, encoders = load_modalities(
        {name: workspace.step(dataset, name) for name in EMBEDDINGS}, items
    )
    regular = Sequences.load(workspace.step(dataset, "sequences") / UserGroup.REGULAR.value)
    modalities = {name: each for name, each in modalities.items() if each.present.any()}
    return World(
        content=content_hash(items, regular, modalities, params),
        params=params,
        items=items,
        regular=regular,
        judged=regular,
        modalities=modalities,
        encoders=encoders,
        generative=params.generative.model_copy(update={"epochs": epochs, "device": device}),
    )


def content_hash(
    items: Items, sequences: Sequences, modalities: Mapping[str, ItemVectors], params: Params
) -> str:
    """What makes a finished run one of other data: a new event, another encoder, another beam."""
    digest = hashlib.sha256()
    for array in (sequences.items, sequences.timestamps, sequences.offsets):
        digest.update(np.ascontiguousarray(array).tobytes())
    for name, each in sorted(modalities.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(each.vectors).tobytes())
        digest.update(np.ascontiguousarray(each.present).tobytes())
    read = [each.described() for each in (params.decoding, params.encoders, params.rules)]
    return sha256_of([digest.hexdigest(), items.ids, *read])


def some_users(sequences: Sequences, count: int) -> Sequences:
    """The same sequences with validation and test targets of ``count`` users alone, drawn with the benchmark's seed."""
    able = np.flatnonzero(np.asarray(sequences.test_at) >= 0)
    chosen = np.zeros(len(sequences), dtype=bool)
    chosen[np.random.default_rng(SEED).choice(able, size=min(count, len(able)), replace=False)] = True
    return replace(
        sequences,
        validation_at=np.where(chosen, sequences.validation_at, -1),
        test_at=np.where(chosen, sequences.test_at, -1),
    )


def once(
    runs: Path,
    vary: str,
    variant: str,
    changes: Mapping[str, Any],
    seed: int,
    world: World,
    play: Callable[[World, TokenizerSettings, GenerativeSettings, Path], dict[str, Any]],
) -> dict[str, Any]:
    """The run's record: of this very configuration from before, or made now."""
    tokenizer = TokenizerSettings.model_validate(
        {**world.params.tokenizer.model_dump(), **changes, "seed": seed}
    )
    generative = world.generative.model_copy(update={"seed": seed})
    recorded = generative.model_dump(
        mode="json", exclude={"device", "threads"}
    )  # either makes the same model
    judged = np.flatnonzero(np.asarray(world.judged.test_at) >= 0).tolist()
    code = [code_version(SOURCES), sha256_of_file(Path(__file__))]
    key = sha256_of([vary, tokenizer.described(), recorded, world.content, judged, code])
    folder = runs / key[:16]
    if (folder / "record.json").is_file():
        record = read_json(folder / "record.json")
        assert isinstance(record, dict)
        return record
    print(f"{variant}, seed {seed}", file=sys.stderr, flush=True)
    record = {**play(world, tokenizer, generative, folder), "commit": harness.commit()}
    write_json(folder / "record.json", record)
    return record


def downstream(
    world: World, tokenizer: TokenizerSettings, generative: GenerativeSettings, folder: Path
) -> dict[str, Any]:
    """Fit, train, and read the test part."""
    training = world.regular.training_part()
    codebook = Codebook.fit(
        wanted(world.modalities, tokenizer),
        world.encoders,
        tokenizer,
        pairs(training, len(world.items), tokenizer),
    )
    vectors, present = codebook.fuse(world.modalities)
    item_map = ItemMap.build(codebook, world.items.ids, vectors, present)
    quality = codes_quality(codebook, vectors, item_map.codes, neighbours=K, seed=tokenizer.seed)
    bound = item_map.bound()
    path, facts = fitted(world, training, world.judged, bound, generative, folder)
    cases = build_cases({UserGroup.REGULAR: world.judged}, "test")
    answers = evaluate_path(path, cases, ListRules(filter_seen=world.params.rules.filter_seen), K, 512)
    hit, counts = relevance(answers.lists, cases.targets)
    beam = np.isin(answers.sources, [i for i, name in enumerate(answers.source_names) if "beam" in name])
    return {
        **facts,
        "ndcg": ndcg(hit, counts, K).tolist(),
        "recall": recall(hit, counts, K).tolist(),
        "beam_share": float(beam.mean()),
        **{
            name: quality[name]
            for name in ("unique_rate", "unique_item_rate", "excess_collisions", "reconstruction_error")
        },
        "usage": [level["usage"] for level in quality["levels"]],
    }


def insertion(
    world: World, tokenizer: TokenizerSettings, generative: GenerativeSettings, folder: Path
) -> dict[str, Any]:
    """Withhold, fit and train without, insert, and ask for what was inserted."""
    events = np.bincount(np.asarray(world.regular.items), minlength=len(world.items))
    common = np.flatnonzero(events >= LEAST_EVENTS)
    withheld = np.sort(
        np.random.default_rng(SEED).choice(common, size=round(WITHHELD * len(common)), replace=False)
    )
    is_withheld = np.zeros(len(world.items), dtype=bool)
    is_withheld[withheld] = True
    seen = np.flatnonzero(~is_withheld)
    known = without(world.regular, is_withheld)
    training = known.training_part()
    modalities = {
        **world.modalities,
        "collaborative": told_by_company(training, world.items.ids, world.params.encoders),
    }
    together = pairs(training, len(world.items), tokenizer)
    place = np.full(len(world.items), -1, dtype=np.int64)
    place[seen] = np.arange(len(seen))
    codebook = Codebook.fit(
        {name: select(each, seen) for name, each in modalities.items()},
        world.encoders,
        tokenizer,
        None if together is None else place[together],
    )
    vectors, present = codebook.fuse(modalities)
    ids = world.items.ids
    before = ItemMap.build(codebook, [ids[row] for row in seen], vectors[seen], present[seen])
    grown = before.insert(codebook, [ids[row] for row in withheld], vectors[withheld], present[withheld])
    item_map = grown.align(world.items)
    # Trained on the map without them: rows that are not active, and that no event names, teach nothing.
    bound = item_map.bound()
    before_it = replace(bound, active=torch.from_numpy(~is_withheld))
    path, facts = fitted(world, training, known, before_it, generative, folder)
    cases = build_cases({UserGroup.REGULAR: some_users(known, ASKED_FOR_KNOWN)}, "test")
    gain_before, _ = asked_for_known(path, cases, is_withheld)
    path.model.bind(bound)
    served = path_of(path.model, bound, world.params.decoding, dense_weight=path.dense_weight)
    gain_after, share = asked_for_known(served, cases, is_withheld)
    requests, targets = withheld_requests(world.regular, is_withheld)
    lists = served.recommend(requests, K, ListRules(filter_seen=True))
    content = content_knn(world, requests)
    return {
        **facts,
        "known_before": gain_before.tolist(),
        "known_after": gain_after.tolist(),
        "share_for_known": share,
        "share_of_events": float(is_withheld[np.asarray(world.regular.items)].mean()),
        "withheld": len(withheld),
        "targets": len(targets),
        "generative": [float(target in found.items) for target, found in zip(targets, lists, strict=True)],
        "content_knn": [float(target in found) for target, found in zip(targets, content, strict=True)],
        "share_of_lists": float(np.mean([is_withheld[found.items].mean() for found in lists])),
    }


def asked_for_known(
    path: GenerativePath, cases: Cases, is_withheld: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], float]:
    """NDCG@10 [U] of lists for requests whose target is a known item, and the share that withheld ones have of them."""
    lists = evaluate_path(path, cases, ListRules(filter_seen=True), K, 512).lists
    hit, counts = relevance(lists, cases.targets)
    return ndcg(hit, counts, K), float(is_withheld[lists[lists >= 0]].mean())


def fitted(
    world: World,
    training: Sequences,
    known: Sequences,
    bound: BoundItems,
    generative: GenerativeSettings,
    folder: Path,
) -> tuple[GenerativePath, dict[str, Any]]:
    """The model trained for exactly so many epochs, as a path, its fusion weight chosen on validation."""
    trained = train(
        training,
        bound,
        generative,
        validation=None,
        checkpoints=folder / "checkpoints",
        progress=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
    )
    result = trained.result
    weight, values = choose_fusion(trained.model, bound, known, world.params.decoding)
    return path_of(trained.model, bound, world.params.decoding, dense_weight=weight), {
        # Of a run that was resumed only the rest is known.
        "train_seconds": result.training_seconds
        if result.tokens == result.epochs * len(training.items)
        else None,
        "trained_on": torch.cuda.get_device_name() if generative.device == "cuda" else harness.processor(),
        "epochs": result.epochs,
        "dense_weight": weight,
        "validation": values[weight],
    }


def wanted(modalities: Mapping[str, ItemVectors], settings: TokenizerSettings) -> dict[str, ItemVectors]:
    return {name: each for name, each in modalities.items() if settings.modality_weights.get(name)}


def pairs(training: Sequences, items: int, settings: TokenizerSettings) -> npt.NDArray[np.int64] | None:
    if settings.fusion != "contrastive":
        return None
    return consumed_together(
        training,
        items,
        window=settings.alignment.window,
        count=settings.alignment.pairs,
        seed=settings.seed,
    )


def faiss_row(runs: Path, world: World, levels: list[int] | None) -> dict[str, Any]:
    """Codes of ``faiss.ResidualQuantizer`` (beam search, its defaults) on the vectors that the others quantize; no
    model is trained on them. Raises ConfigurationError for level sizes that are no powers of 2."""
    import faiss

    changes = {"level_sizes": levels} if levels else {}
    settings = TokenizerSettings.model_validate({**world.params.tokenizer.model_dump(), **changes})
    file = runs / f"faiss-{sha256_of([settings.model_dump(mode='json'), world.items.ids])[:16]}.json"
    if not file.is_file():
        codebook = Codebook.fit(wanted(world.modalities, settings), world.encoders, settings, None)
        vectors, _ = codebook.fuse(world.modalities)
        bits = faiss.UInt64Vector()
        for size in settings.level_sizes[:-1]:
            if size & (size - 1):
                raise ConfigurationError(f"FAISS needs level sizes that are powers of 2, not {size}")
            bits.push_back(size.bit_length() - 1)
        quantizer = faiss.ResidualQuantizer(vectors.shape[1], bits)
        quantizer.train(vectors)
        codes = quantizer.compute_codes(vectors)
        spread = ((vectors - vectors.mean(axis=0)) ** 2).sum()
        write_json(
            file,
            {
                "excess_collisions": len(codes) - len(np.unique(codes, axis=0)),
                "error": float(((vectors - quantizer.decode(codes)) ** 2).sum() / spread),
            },
        )
    found = read_json(file)
    assert isinstance(found, dict)
    return {"variant": "faiss.ResidualQuantizer, codes alone", **found}


def without(sequences: Sequences, dropped: npt.NDArray[np.bool_]) -> Sequences:
    """The sequences without the events of some items; a user's last two events are validation and test again."""
    kept = ~dropped[np.asarray(sequences.items)]
    owner = np.repeat(np.arange(len(sequences)), np.diff(sequences.offsets))
    lengths = np.bincount(owner[kept], minlength=len(sequences))
    return Sequences(
        items=np.asarray(sequences.items)[kept],
        timestamps=np.asarray(sequences.timestamps)[kept],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        validation_at=np.where(lengths >= 3, lengths - 2, -1).astype(np.int32),
        test_at=np.where(lengths >= 3, lengths - 1, -1).astype(np.int32),
        user_ids=sequences.user_ids,
    )


def withheld_requests(
    sequences: Sequences, is_withheld: npt.NDArray[np.bool_]
) -> tuple[list[Request], list[int]]:
    """For every user with an event on a withheld item after a known one: the history before the last such event."""
    requests, targets = [], []
    for user in range(len(sequences)):
        events, times = (np.asarray(part, dtype=np.int64) for part in sequences.user(user))
        hits = np.flatnonzero(is_withheld[events])
        if not len(hits):
            continue
        history = np.flatnonzero(~is_withheld[events[: hits[-1]]])
        if len(history):
            requests.append(Request(history=events[history], timestamps=times[history]))
            targets.append(int(events[hits[-1]]))
    return requests, targets


def content_knn(world: World, requests: list[Request]) -> list[npt.NDArray[np.int64]]:
    """[U] lists of K: nearest in content to the mean of the history, seen items hidden."""
    parts = []
    for name, each in world.modalities.items():
        if name != "collaborative":
            lengths = np.maximum(np.linalg.norm(each.vectors, axis=1, keepdims=True), 1e-12)
            parts.append(each.vectors / lengths)
    content = np.concatenate(parts, axis=1)
    found = []
    for request in requests:
        scores = content @ content[request.history].mean(axis=0)
        scores[request.history] = -np.inf
        found.append(np.argsort(-scores, kind="stable")[:K])
    return found


def downstream_rows(found: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    first = next(iter(found))
    (base,) = means_of(found[first], "ndcg")
    rows = []
    for variant, records in found.items():
        gain, hits = means_of(records, "ndcg", "recall")
        value, share, difference = intervals(gain, hits, gain - base)
        rows.append(
            {
                "variant": variant,
                "seeds": len(records),
                "ndcg@10": value,
                "recall@10": share,
                f"ndcg@10 minus {first}": None if variant == first else difference,
                "beam_share": mean(records, "beam_share"),
                "unique_rate": mean(records, "unique_rate"),
                "usage": ", ".join(
                    f"{share:.0%}" for share in np.mean([run["usage"] for run in records], axis=0)
                ),
                "excess_collisions": mean(records, "excess_collisions"),
                "error": mean(records, "reconstruction_error"),
                "trained on": training(records),
            }
        )
    return rows


def training(records: list[dict[str, Any]]) -> str:
    """On what the runs were trained, and the mean seconds of training steps there of those that were not resumed."""
    own: dict[str, list[dict[str, Any]]] = {}
    for run in records:
        own.setdefault(run["trained_on"], []).append(run)
    told = []
    for device, runs in own.items():
        whole = [run for run in runs if run["train_seconds"] is not None]
        seconds = f"{mean(whole, 'train_seconds'):.0f} s" if whole else "not measured"
        told.append(f"{device}: {len(runs)} in {seconds}")
    return "; ".join(told)


def insertion_rows(found: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    rows = []
    for variant, records in found.items():
        model, content = means_of(records, "generative", "content_knn")
        before, after = means_of(records, "known_before", "known_after")
        ours, theirs, difference = intervals(model, content, model - content)
        unharmed, _, cost = intervals(before, after, after - before)
        rows.append(
            {
                "fusion": variant,
                "seeds": len(records),
                "withheld": records[0]["withheld"],
                "targets": records[0]["targets"],
                "recall@10 generative": ours,
                "recall@10 content_knn": theirs,
                "difference": difference,
                "recall@10 popularity": 0.0,
                "share_of_lists": mean(records, "share_of_lists"),
                "share_of_events": mean(records, "share_of_events"),
                "asked for known: share_of_lists": mean(records, "share_for_known"),
                "ndcg@10 before": unharmed,
                "after minus before": cost,
                "trained on": training(records),
            }
        )
    return rows


def means_of(records: list[dict[str, Any]], *names: str) -> list[npt.NDArray[np.float64]]:
    """Of each of ``names`` the means by user over the seeds."""
    return [np.mean([run[name] for run in records], axis=0) for name in names]


def intervals(*values: npt.NDArray[np.float64]) -> list[str]:
    found = mean_intervals(np.vstack(values), samples=SAMPLES, confidence=0.95, seed=SEED)
    return [interval(each) for each in found]


def made_elsewhere(records: list[dict[str, Any]]) -> list[str]:
    """A note on the runs that were kept from another commit than the one that is written down; none where there are
    none."""
    now = harness.commit()
    others = [str(run.get("commit") or "an unknown one")[:14] for run in records if run.get("commit") != now]
    if not others:
        return []
    return [f"{len(others)} of the {len(records)} runs were made at commits {', '.join(sorted(set(others)))}"]


def mean(records: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([run[name] for run in records]))


def interval(value: Any) -> str:
    return f"{value.estimate:.4f} [{value.low:.4f}, {value.high:.4f}]"


if __name__ == "__main__":
    main()
