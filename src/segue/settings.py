"""The base of every settings model: frozen, unknown keys refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict

# Of a model's settings, those that say how its training runs: the model that comes out is the same.
HOW_TRAINING_RUNS: Final = frozenset({"accumulate", "checkpoint_minutes", "checkpoint_steps"})


class Settings(BaseModel):
    """A section of ``params.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    retired: ClassVar[frozenset[str]] = frozenset()  # keys that earlier versions had and wrote beside a model

    # What a key that earlier versions did not know stands for where it is not written beside a model.
    absent: ClassVar[Mapping[str, Any]] = {}

    operational: ClassVar[frozenset[str]] = frozenset()  # keys that say how work is done, not what comes out

    def described(self) -> dict[str, Any]:
        """As JSON without the operational keys, for the identity of what these settings make: a machine with less memory
        makes the same model."""
        left = self.model_dump(mode="json", exclude=set(self.operational))
        for name in left:
            if isinstance(inner := getattr(self, name), Settings):
                left[name] = inner.described()
        return left

    @classmethod
    def stored(cls, value: Mapping[str, Any]) -> Self:
        """Settings as a version of Segue, this or an earlier one, wrote them beside a model or into a bundle.

        What serves must go on serving after an upgrade, so retired keys are dropped here; in ``params.yaml`` they
        are refused, like any unknown key; a key of ``absent`` that is not there has the value that it stands for.
        Raises pydantic's ValidationError.
        """
        return cls.model_validate({**cls.absent, **_without_retired(cls, value)})


def _without_retired(model: type[Settings], value: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, each in value.items():
        if name in model.retired:
            continue
        field = model.model_fields.get(name)
        inner = None if field is None else field.annotation
        nested = isinstance(inner, type) and issubclass(inner, Settings) and isinstance(each, Mapping)
        kept[name] = _without_retired(inner, each) if nested else each  # type: ignore[arg-type]  # seen above
    return kept
