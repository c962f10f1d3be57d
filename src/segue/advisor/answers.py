"""What cannot be measured: the team's answers, from a file, from options, or asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segue.errors import ConfigurationError
from segue.yaml_files import parse_yaml, read_yaml


class Answers(BaseModel):
    """Answers of one firm. Those with a default are assumptions until somebody answers them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    monthly_users: int = Field(gt=0, description="Users a month")
    items: int = Field(gt=0, description="Items in the catalogue")
    requests_per_second: float = Field(gt=0, allow_inf_nan=False, description="Requests a second at the peak")
    skills: Literal["basic", "machine_learning", "research"] = Field(
        description="Who looks after models day by day: basic, machine_learning or research"
    )
    risk_tolerance: Literal["low", "medium", "high"] = Field(
        description="How much an experiment may put at stake: low, medium or high"
    )
    monthly_budget: float = Field(
        gt=0, allow_inf_nan=False, description="What serving and training may cost a month"
    )
    latency_p99_ms: float = Field(
        gt=0, allow_inf_nan=False, description="Milliseconds within which 99 % of the answers must come"
    )
    months: float = Field(gt=0, allow_inf_nan=False, description="Months until it must have paid off")
    ctr: float = Field(0.05, gt=0, lt=1, description="Clicks on an item shown")
    impressions_per_user: float = Field(
        30.0, gt=0, description="Items that a user is shown while the experiment counts them"
    )
    retrains_per_month: float = Field(4.0, ge=0, description="How often a month the model is trained anew")


REQUIRED: Final = tuple(name for name, one in Answers.model_fields.items() if one.is_required())


def read_answers(
    path: Path | None, options: Iterable[str] = (), *, ask: Callable[[str, str], str] | None = None
) -> Answers:
    """The answers in ``path`` (YAML), then ``key=value`` options, then what ``ask(name, question)`` returns for the rest.

    Raises ConfigurationError that names the file or option, the key, and what it must be.
    """
    given: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if path is not None:
        for name, value in _file(path).items():
            given[name], origin[name] = value, str(path)
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise ConfigurationError(
                f"--answer {option}: write it as name=value, such as monthly_users=200000"
            )
        given[name], origin[name] = _value(text), f"--answer {option}"
    _refuse_unknown(given, origin)
    missing = [name for name in REQUIRED if name not in given]
    if missing and ask is None:
        wanted = "; ".join(f"{name} ({Answers.model_fields[name].description})" for name in missing)
        raise ConfigurationError(
            f"answers are missing: {wanted}. Give them with --answers FILE or --answer name=value, or run it in a terminal"
        )
    for name in missing:
        assert ask is not None
        question = meaning = str(Answers.model_fields[name].description)
        while True:
            given[name] = _value(ask(name, question))
            if (fault := _fault({name: given[name]}, name)) is None:
                break
            question = f"{meaning} ({fault})"
    try:
        return Answers.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise ConfigurationError(
            f"{origin.get(name, 'answers')}: {name}: {first['msg']} (it is {given[name]!r}). It means: "
            f"{Answers.model_fields[name].description}"
        ) from error


def _file(path: Path) -> Mapping[str, Any]:
    value = read_yaml(path, absent="write your answers there (docs/advisor.md lists them)")
    if value is None:
        raise ConfigurationError(f"{path} is empty: write your answers there (docs/advisor.md lists them)")
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path} must be a mapping of answers, such as `monthly_users: 200000`")
    return {str(name): one for name, one in value.items()}


def _refuse_unknown(given: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    for name in given:
        if name not in Answers.model_fields:
            raise ConfigurationError(
                f"{origin[name]}: there is no answer {name!r}; answers: {', '.join(Answers.model_fields)}"
            )


def _fault(given: Mapping[str, Any], name: str) -> str | None:
    """Why the one answer ``name`` is refused, or None."""
    try:
        Answers.model_validate(given)
    except ValidationError as error:
        for one in error.errors():
            if one["loc"][0] == name and one["type"] != "missing":
                return str(one["msg"])
    return None


def _value(text: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError:
        return text  # the model says what is wrong with it
