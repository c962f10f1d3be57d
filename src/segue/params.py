"""Parameters: one definition, three fronts.

``params.yaml`` holds the defaults of every section; ``profiles/<dataset>.yaml`` holds the dataset's own ``data``
section and overrides of any other. Both are plain YAML, so DVC tracks them key by key (``dvc exp run -S
generative.dropout=0.2``), Dagster's run configuration and ``segue run --set generative.dropout=0.2`` override them, and
all three end in the same frozen, validated :class:`Params`. ``--set @plan.yaml`` lays a whole file of sections over them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, ValidationError

from segue.canonical import sha256_of
from segue.cascade.settings import CascadeSettings
from segue.data.settings import DataSettings, SplitSettings, ValidationSettings
from segue.decoding.settings import DecodingSettings
from segue.encoders.settings import EncoderSettings
from segue.errors import ConfigurationError
from segue.evaluation.settings import EvaluationSettings
from segue.generative.settings import GenerativeSettings, TuningSettings
from segue.migration.settings import MigrationSettings
from segue.ranking.settings import RuleSettings
from segue.serving.settings import ServingSettings
from segue.settings import Settings
from segue.tokenizers.settings import DriftSettings, SemanticIdSettings, TokenizerSettings
from segue.workspace import Workspace, check_name
from segue.yaml_files import parse_yaml, read_yaml

FILE_MARK: Final = "@"  # an override that begins with it names a file


class Params(Settings):
    """Every parameter of one dataset's graph."""

    data: DataSettings
    validation: ValidationSettings
    splits: SplitSettings
    encoders: EncoderSettings
    tokenizer: TokenizerSettings
    semantic_ids: SemanticIdSettings
    drift: DriftSettings
    cascade: CascadeSettings
    generative: GenerativeSettings
    tuning: TuningSettings
    decoding: DecodingSettings
    rules: RuleSettings
    evaluation: EvaluationSettings
    migration: MigrationSettings
    serving: ServingSettings

    def sections_hash(self, sections: Iterable[str]) -> str:
        """Hash of the named sections, in the identity of every step that reads them."""
        return sha256_of({name: getattr(self, name).model_dump(mode="json") for name in sorted(sections)})


SECTIONS: tuple[str, ...] = tuple(Params.model_fields)


def load_params(
    workspace: Workspace, dataset: str, overrides: Iterable[str] = (), *, origin: str = "--set"
) -> Params:
    """The parameters of ``dataset``: defaults, then its profile, then overrides: ``section.key=value``, or ``@file``, a YAML
    file of sections.

    Raises ConfigurationError naming the file, or the override and its ``origin``, and the key that is unknown or wrong.
    """
    defaults = read_sections(workspace.params_file)
    profile_file = workspace.profile_file(check_name(dataset))
    if not profile_file.is_file():
        known = ", ".join(sorted(path.stem for path in profile_file.parent.glob("*.yaml"))) or "none"
        raise ConfigurationError(
            f"there is no profile {profile_file} (profiles: {known}); `segue init` writes one from your table"
        )
    profile = read_sections(profile_file)
    defaults.pop("datasets", None)
    if missing := [section for section in SECTIONS if section not in profile]:
        raise ConfigurationError(
            f"{profile_file} lacks the section{'s' if len(missing) > 1 else ''} {', '.join(missing)}: "
            f"add {', '.join(f'`{section}: {{}}`' for section in missing)}, a line each"
        )
    layers = [
        (workspace.params_file.name, defaults),
        (f"{profile_file.parent.name}/{profile_file.name}", profile),
    ]
    layers += [(f"{origin} {override}", _layer(override, origin)) for override in overrides]
    merged: dict[str, Any] = {}
    for name, layer in layers:
        _refuse_unknown(name, layer, Params)
        merged = lay_over(merged, layer)
    try:
        return Params.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        told = first["msg"].removeprefix(
            "Value error, "
        )  # pydantic's own word before what a validator of ours says
        said = [name for name, layer in layers if _says(layer, first["loc"])]
        raise ConfigurationError(f"{said[-1] if said else profile_file}: {where}: {told}") from error


def expanded(overrides: Iterable[str]) -> list[str]:
    """``overrides`` with every ``@file`` replaced by what it says, key by key.

    An engine that runs in another folder, and keeps its run's configuration, is then told values and not a file.
    """
    found = []
    for override in overrides:
        if override.startswith(FILE_MARK):
            layer = _layer(override, "--set")
            found += [
                f"{section}.{key}={json.dumps(value, ensure_ascii=False)}"
                for section, values in layer.items()
                for key, value in values.items()
            ]
        else:
            found.append(override)
    return found


def active_datasets(workspace: Workspace) -> tuple[str, ...]:
    """The datasets that ``dvc repro`` runs: the list ``datasets`` of ``params.yaml``."""
    named = read_sections(workspace.params_file).get("datasets", ())
    for one in named:
        if not isinstance(one, str):
            raise ConfigurationError(
                f"{workspace.params_file}: datasets holds {one!r}, which YAML takes for no text: put it in quotes"
            )
    return tuple(named)


def read_sections(path: Path) -> dict[str, Any]:
    """A YAML file of sections. Raises ConfigurationError where it is missing, cannot be read, or is anything else."""
    value = read_yaml(path)
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path} must be a mapping of sections")
    return value


def lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with the keys of ``above`` laid over it: mappings key by key, everything else whole."""
    merged = dict(below)
    for key, value in above.items():
        current = merged.get(key)
        merged[key] = (
            lay_over(current, value) if isinstance(current, dict) and isinstance(value, dict) else value
        )
    return merged


def _layer(override: str, origin: str) -> dict[str, Any]:
    if not override.startswith(FILE_MARK):
        return _parse_override(override, origin)
    path = Path(override.removeprefix(FILE_MARK)).expanduser()
    layer = read_sections(path)
    for section, values in layer.items():
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"{path}: section {section!r} must be a mapping of keys")
    return layer


def _parse_override(override: str, origin: str) -> dict[str, Any]:
    key, separator, text = override.partition("=")
    if not separator or "." not in key:
        raise ConfigurationError(f"{origin} {override!r} is not of the form section.key=value")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ConfigurationError(f"{origin} {override!r}: {text!r} is no value in YAML") from error
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _refuse_unknown(name: str, values: Mapping[str, Any], model: type[BaseModel], inside: str = "") -> None:
    """Raise for the first key that ``model`` does not have, saying which it has, the nearest first."""
    valid = list(model.model_fields)
    for key, value in values.items():
        if key not in model.model_fields:
            near = difflib.get_close_matches(str(key), valid, n=1)
            listed = ", ".join([*near, *(one for one in valid if one not in near)])
            meant = f"did you mean {near[0]!r}? " if near else ""
            if inside:
                raise ConfigurationError(
                    f"{name}: {inside} has no key {key!r}; {meant}keys of {inside}: {listed}"
                )
            raise ConfigurationError(f"{name}: there is no section {key!r}; {meant}sections: {listed}")
        _refuse_unknown_within(
            name, value, model.model_fields[key].annotation, f"{inside}.{key}" if inside else key
        )


def _refuse_unknown_within(name: str, value: Any, annotation: Any, inside: str) -> None:
    """As :func:`_refuse_unknown`, for the value of a field: a model, or a mapping whose keys are the user's own names and
    whose values are models."""
    if not isinstance(value, Mapping):
        return
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        _refuse_unknown(name, value, annotation, inside)
    elif get_origin(annotation) is dict:
        for key, each in value.items():
            _refuse_unknown_within(name, each, get_args(annotation)[1], f"{inside}.{key}")
    else:
        for one in get_args(annotation):  # of a union
            _refuse_unknown_within(name, value, one, inside)


def _says(layer: Any, path: Sequence[int | str]) -> bool:
    """Whether ``layer`` sets what stands at ``path``, or something within it."""
    for part in path:
        if isinstance(layer, list):  # lists are replaced whole, so whoever says the list says its elements
            break
        if not isinstance(layer, Mapping) or part not in layer:
            return False
        layer = layer[part]
    return True
