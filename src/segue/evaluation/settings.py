"""Settings of the offline evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from segue.settings import Settings


class EvaluationSettings(Settings):
    cutoffs: tuple[int, ...] = (5, 10, 20)
    headline_cutoff: int = (
        10  # of the figures on the pages and of the list statistics (coverage, diversity, ...)
    )
    list_length: int = Field(50, ge=1)  # how long a list every path is asked for
    bootstrap_samples: int = Field(2000, ge=100)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    power: float = Field(0.8, gt=0.5, lt=1)  # of "it would take n users"
    batch_size: int = Field(256, ge=1)
    long_tail_share: float = Field(
        0.8, gt=0, lt=1
    )  # the least popular items that make up 80 % of the catalogue
    short_history: int = Field(20, ge=1)  # events or fewer
    overlap_users: int = Field(256, ge=1)  # asked, to compare the refitted model's lists with the evaluated
    # Paths made of the cascade's and the generative one that are measured beside them.
    composed: tuple[Literal["recall_route", "rerank", "blended"], ...] = ("rerank", "blended")
    # The generative part's shares that are tried on validation for the blend.
    blend_shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field((0.25, 0.5, 0.75), min_length=1)
    examples: int = Field(3, ge=0)  # users shown with their lists
    threads: int = Field(2, ge=1)  # of torch; recorded, because float sums depend on it
    seed: int = 17

    @model_validator(mode="after")
    def _cutoffs_fit_the_list(self) -> EvaluationSettings:
        if not self.cutoffs or min(self.cutoffs) < 1 or max(self.cutoffs) > self.list_length:
            raise ValueError(f"cutoffs must lie between 1 and list_length ({self.list_length})")
        if self.headline_cutoff not in self.cutoffs:
            raise ValueError(f"headline_cutoff {self.headline_cutoff} must be one of cutoffs {self.cutoffs}")
        return self
