"""Bundles: everything that serving needs, in one immutable folder.

    bundle.json      what it is: identities, rules, decoding, recipe, and the hash of every file
    items.parquet    the items with their titles; row i is item index i
    item_map/        semantic IDs and the items' aligned vectors        (kind "full" only)
    model/           the generative model's weights and configuration   (kind "full" only)
    incumbent/       the cascade
    themes.parquet   what the prefixes of the semantic IDs are about    (kind "full"; bundles of old lack it)

A bundle's identity is the hash of ``bundle.json`` without the identity itself. It holds no history: user
histories live in the online store, so that a user can be erased; the bundle names the snapshot they come
from by its hash. Nothing in it can run code when it is loaded: the kinds of file are few, and each is read
only if its hash is the listed one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import fsspec
import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from segue.artifacts import MANIFEST, read_json, replace_folder, temporary_folder, write_text
from segue.canonical import canonical_json, sha256_of, sha256_of_file
from segue.data.context import Vocabulary
from segue.errors import ArtifactError
from segue.items import ITEMS_FILE, Items
from segue.migration.recipe import recipe_id
from segue.schema import Catalogue
from segue.settings import HOW_TRAINING_RUNS

BUNDLE_FILE = "bundle.json"
SCHEMA_VERSION = 1
INCUMBENT, MODEL, ITEM_MAP = "incumbent", "model", "item_map"
THEMES = (
    "themes.parquet"  # columns prefix and words of the table that semantic_id_report writes under this name
)
LOADABLE = frozenset({".safetensors", ".parquet", ".json", ".faiss", ".onnx"})
# Long or private to the training side: neither shown with an answer nor read by a path.
_LEFT_OUT_COLUMNS = (Catalogue.TEXT, Catalogue.IMAGE)
_LEFT_OUT_FILES = frozenset({MANIFEST, "quality.json"})

BundleKind = Literal["incumbent", "full"]


class BundleManifest(BaseModel):
    """``bundle.json``. ``bundle_id`` is the hash of all the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    bundle_id: str = ""
    kind: BundleKind
    dataset: str
    incumbent_id: str
    incumbent_sha256: str  # of its files' hashes
    model_id: str | None = None  # of its weights' and configuration's hashes
    codebook_id: str | None = None
    item_map_id: str | None = None
    item_map_revision: int | None = None
    items: int
    recipe: str
    rules: dict[str, Any]
    features: dict[str, Any]
    decoding: dict[str, Any]
    serving: dict[str, Any]
    histories_snapshot: str  # sha256 of the snapshot's file; referenced, never contained
    files: dict[str, str]  # relative POSIX path -> sha256

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or str(path) != name:
                raise ValueError(f"{name!r} is no path inside the bundle")
            if path.suffix not in LOADABLE:
                raise ValueError(
                    f"{name!r} is of a kind that a bundle may not hold ({', '.join(sorted(LOADABLE))})"
                )
        return files

    def computed_id(self) -> str:
        """Hex SHA-256 of the manifest without the id."""
        return sha256_of(self.model_dump(mode="json", exclude={"bundle_id"}))


def generative_configuration(model: Path) -> dict[str, Any]:
    """What of a model folder belongs to its recipe: the model's name and its settings.

    Neither weights nor what is estimated with them (the fusion weight), nor dimensions that follow from the
    items: a retrain keeps the recipe. Raises ArtifactError where a file is missing or
    wrong.
    """
    config = _mapping(model / "config.json")
    settings = config.get("settings")
    if isinstance(settings, dict):
        settings = {name: value for name, value in settings.items() if name not in HOW_TRAINING_RUNS}
    return {"model": config.get("model"), "settings": settings}


def stated_recipe(
    *,
    incumbent: Path,
    rules: Mapping[str, Any],
    decoding: Mapping[str, Any] | None = None,
    model: Path | None = None,
    features: Mapping[str, Any] | None = None,
) -> str:
    """The recipe of an incumbent folder and, where there is one, a model folder.

    The folders of the offline evaluation (``incumbent``, ``generative_model``) and those of the refit give
    the same recipe, because only their settings enter it. ``features``: default: those that the model reads.
    """
    generative: dict[str, Any] = {}
    codebook = ""
    if model is not None:
        generative = generative_configuration(model) | {"decoding": dict(decoding or {})}
        codebook = str(_mapping(model / "config.json").get("codebook_id", ""))
    return recipe_id(
        generative=generative,
        codebook_id=codebook,
        # Its settings, not its id: the refit has other weights, and is made by the same recipe.
        incumbent={"settings": _field(incumbent / "incumbent.json", "settings")},
        rules=rules,
        features=declared_features(model) if features is None and model is not None else features,
    )


def declared_features(model: Path) -> dict[str, Any]:
    """The context features that the model in a folder reads: their definitions, without the values seen so far."""
    vocabulary = Vocabulary.load(model)
    return {} if vocabulary is None else vocabulary.describe()


def write_incumbent_bundle(
    output: Path,
    *,
    dataset: str,
    splits: Path,
    incumbent: Path,
    rules: Mapping[str, Any],
    serving: Mapping[str, Any],
    features: Mapping[str, Any] | None = None,
) -> BundleManifest:
    """Write the first kind of bundle into ``output``: the incumbent alone."""
    return _write(
        output,
        kind="incumbent",
        dataset=dataset,
        splits=splits,
        incumbent=incumbent,
        rules=rules,
        serving=serving,
        decoding={},
        features=features or {},
        recipe=stated_recipe(incumbent=incumbent, rules=rules, features=features),
    )


def write_bundle(
    output: Path,
    *,
    dataset: str,
    splits: Path,
    incumbent: Path,
    model: Path,
    item_map: Path,
    rules: Mapping[str, Any],
    serving: Mapping[str, Any],
    decoding: Mapping[str, Any],
    features: Mapping[str, Any] | None = None,
    themes: Path | None = None,
) -> BundleManifest:
    """Write a whole bundle into ``output``: incumbent, item map and generative model.

    ``themes``: the folder of ``semantic_id_report``, whose words explanations use; None: they do without.
    Raises ArtifactError where the model and the item map are bound to different codebooks, or the item map is
    not that of the items.
    """
    if features is None:
        features = declared_features(model)
    config = _mapping(model / "config.json")
    described = _mapping(item_map / "item_map.json")
    if config.get("codebook_id") != described.get("codebook_id"):
        raise ArtifactError(
            f"{model} is bound to codebook {config.get('codebook_id')}, "
            f"{item_map} to {described.get('codebook_id')}: "
            "train the model on this codebook, or keep the codebook that it was trained on"
        )
    mapped = pl.read_parquet(item_map / "item_map.parquet", columns=["item_id", "retired"])
    items = Items.load(splits)
    if missing := sorted(set(items.ids) - set(mapped.filter(~pl.col("retired"))["item_id"])):
        raise ArtifactError(
            f"{item_map}/item_map.parquet lacks item {missing[0]!r} of {splits}/{ITEMS_FILE} "
            f"({len(missing)} in all): run the step item_map again"
        )
    return _write(
        output,
        kind="full",
        dataset=dataset,
        splits=splits,
        incumbent=incumbent,
        model=model,
        item_map=item_map,
        themes=themes,
        rules=rules,
        serving=serving,
        decoding=decoding,
        features=features,
        recipe=stated_recipe(
            incumbent=incumbent, model=model, rules=rules, decoding=decoding, features=features
        ),
    )


def read_bundle(folder: Path, *, verify: bool = True) -> BundleManifest:
    """The manifest of the bundle in ``folder``; with ``verify`` every byte is read and compared.

    Raises ArtifactError naming the file that is missing, damaged, unlisted or not understood. A step's own
    ``manifest.json`` beside ``bundle.json`` is no part of the bundle.
    """
    path = folder / BUNDLE_FILE
    raw = read_json(path)
    manifest = _parse(raw, path)
    if not verify:
        return manifest
    for name, digest in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise ArtifactError(f"{file} is missing: fetch or build the bundle again")
        if sha256_of_file(file) != digest:
            raise ArtifactError(
                f"{file} was changed or damaged after it was written: fetch or build the bundle again"
            )
    present = {item.relative_to(folder).as_posix() for item in folder.rglob("*") if item.is_file()}
    if unlisted := sorted(present - set(manifest.files) - {BUNDLE_FILE, MANIFEST}):
        raise ArtifactError(
            f"{folder / unlisted[0]} is not listed in {BUNDLE_FILE}: nothing unlisted is loaded"
        )
    return manifest


def publish(bundle: Path, bundles_root: str | Path) -> str:
    """Copy a bundle to ``<bundles_root>/<bundle id>/`` (a folder or an fsspec URL), once, and return its id.

    The bundle is verified first. What already stands there under the same id is left alone if it is whole,
    else replaced. In an object store ``bundle.json`` is written last: it is what makes the bundle exist.
    """
    manifest = read_bundle(bundle)
    if isinstance(bundles_root, Path) or "://" not in bundles_root:
        target = Path(bundles_root) / manifest.bundle_id
        if not _is_whole(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary_folder(target) as temporary:
                for name in (*manifest.files, BUNDLE_FILE):
                    (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(bundle / name, temporary / name)
                replace_folder(temporary, target)
        return manifest.bundle_id
    filesystem, root = fsspec.core.url_to_fs(bundles_root)
    place = f"{root.rstrip('/')}/{manifest.bundle_id}"
    if not filesystem.exists(f"{place}/{BUNDLE_FILE}"):
        for name in (*sorted(manifest.files), BUNDLE_FILE):
            filesystem.makedirs(f"{place}/{name}".rpartition("/")[0], exist_ok=True)
            filesystem.put_file(str(bundle / name), f"{place}/{name}")
    return manifest.bundle_id


def fetch_bundle(root_url: str, bundle_id: str, cache: Path) -> Path:
    """A verified local copy of a published bundle, under ``cache/<bundle id>/``.

    What the cache already holds whole is not fetched again. Raises ArtifactError where the bundle is not
    published there, or arrives damaged or as another one than was asked for.
    """
    target = cache / bundle_id
    if not _is_id(bundle_id):
        raise ArtifactError(f"{bundle_id!r} is no bundle id")
    if _is_whole(target):
        return target
    filesystem, root = fsspec.core.url_to_fs(root_url)
    place = f"{root.rstrip('/')}/{bundle_id}"
    if not filesystem.exists(f"{place}/{BUNDLE_FILE}"):
        raise ArtifactError(f"bundle {bundle_id[:12]} is not published under {root_url}: publish it again")
    cache.mkdir(parents=True, exist_ok=True)
    with temporary_folder(target) as temporary:
        filesystem.get_file(f"{place}/{BUNDLE_FILE}", str(temporary / BUNDLE_FILE))
        manifest = read_bundle(temporary, verify=False)
        if manifest.bundle_id != bundle_id:
            raise ArtifactError(
                f"{root_url} holds bundle {manifest.bundle_id[:12]} in the place of {bundle_id[:12]}"
            )
        for name in manifest.files:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            filesystem.get_file(f"{place}/{name}", str(temporary / name))
        read_bundle(temporary)
        replace_folder(temporary, target)
    return target


def _write(
    output: Path,
    *,
    kind: BundleKind,
    dataset: str,
    splits: Path,
    incumbent: Path,
    rules: Mapping[str, Any],
    serving: Mapping[str, Any],
    decoding: Mapping[str, Any],
    features: Mapping[str, Any],
    recipe: str,
    model: Path | None = None,
    item_map: Path | None = None,
    themes: Path | None = None,
) -> BundleManifest:
    output.mkdir(parents=True, exist_ok=True)
    items = Items.load(splits)
    items.table.drop(*_LEFT_OUT_COLUMNS, strict=False).write_parquet(output / ITEMS_FILE)
    _copy(incumbent, output / INCUMBENT)
    described: Mapping[str, Any] = {}
    if model is not None and item_map is not None:
        _copy(model, output / MODEL)
        _copy(item_map, output / ITEM_MAP)
        described = _mapping(item_map / "item_map.json")
    if themes is not None:
        if not (themes / THEMES).is_file():
            raise ArtifactError(f"{themes / THEMES} is missing: run the step semantic_id_report again")
        pl.read_parquet(themes / THEMES, columns=["prefix", "words"]).write_parquet(output / THEMES)
    files = {
        path.relative_to(output).as_posix(): sha256_of_file(path)
        for path in sorted(output.rglob("*"))
        if path.is_file()
    }
    # Through JSON and back: what is hashed is what a reader of the file will hash (tuples have become lists).
    manifest = BundleManifest.model_validate(
        json.loads(
            canonical_json(
                {
                    "kind": kind,
                    "dataset": dataset,
                    "incumbent_id": _field(incumbent / "incumbent.json", "incumbent_id"),
                    "incumbent_sha256": sha256_of(_below(files, INCUMBENT)),
                    "model_id": sha256_of(_below(files, MODEL)) if model is not None else None,
                    "codebook_id": described.get("codebook_id"),
                    "item_map_id": described.get("item_map_id"),
                    "item_map_revision": described.get("revision"),
                    "items": len(items),
                    "recipe": recipe,
                    "rules": dict(rules),
                    "features": dict(features),
                    "decoding": dict(decoding),
                    "serving": dict(serving),
                    "histories_snapshot": sha256_of_file(splits / "interactions.parquet"),
                    "files": files,
                }
            )
        )
    )
    sealed = manifest.model_copy(update={"bundle_id": manifest.computed_id()})
    write_text(output / BUNDLE_FILE, canonical_json(sealed.model_dump(mode="json")) + "\n")
    return sealed


def _copy(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise ArtifactError(f"{source} is missing")
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if not path.is_file() or name.as_posix() in _LEFT_OUT_FILES:
            continue
        if path.suffix not in LOADABLE:
            raise ArtifactError(
                f"{path} may not go into a bundle, which holds {', '.join(sorted(LOADABLE))} only"
            )
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)


def _below(files: Mapping[str, str], folder: str) -> dict[str, str]:
    return {name: digest for name, digest in files.items() if name.startswith(f"{folder}/")}


def _parse(raw: object, path: Path) -> BundleManifest:
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema version {version!r}, this code reads {SCHEMA_VERSION}: update segue"
        )
    try:
        manifest = BundleManifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where: Iterable[str] = (str(part) for part in first["loc"])
        raise ArtifactError(f"{path} is damaged: {'.'.join(where)}: {first['msg']}") from error
    if manifest.computed_id() != manifest.bundle_id:
        raise ArtifactError(
            f"{path} was changed after it was written: its bundle_id is not the hash of the rest"
        )
    return manifest


def _is_whole(folder: Path) -> bool:
    try:
        return read_bundle(folder).bundle_id == folder.name
    except ArtifactError:
        return False


def _is_id(text: str) -> bool:
    return len(text) == 64 and all(character in "0123456789abcdef" for character in text)


def _mapping(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} must hold a JSON object")
    return value


def _field(path: Path, name: str) -> object:
    value = _mapping(path)
    if name not in value:
        raise ArtifactError(f"{path} lacks the field {name!r}")
    return value[name]
