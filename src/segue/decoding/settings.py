"""Settings of decoding and fusion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from segue.settings import Settings


class DecodingSettings(Settings):
    beam_width: int = Field(100, ge=1)
    dense_candidates: int = Field(100, ge=1)
    # Weights of the dense score tried on validation. With 1 among them a path could be chosen that generates nothing.
    fusion_grid: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 0.25, 0.5, 0.75, 0.9), min_length=1
    )
