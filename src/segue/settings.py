"""The base of every settings model: frozen, unknown keys refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of ``params.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
