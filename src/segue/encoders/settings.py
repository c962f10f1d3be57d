"""Settings of the encoders."""

from __future__ import annotations

from pydantic import Field

from segue.settings import Settings


class EncoderSettings(Settings):
    """How items become vectors before they become codes."""

    text_model: str = (
        "minilm"  # an entry point of segue.encoders, or the folder of a sentence-transformers model
    )
    text_batch_size: int = Field(8, ge=1)  # texts of equal token length in one forward pass
    text_max_tokens: int = Field(128, ge=8)
    attribute_max_categories: int = Field(
        512, ge=0
    )  # the most frequent ones get a column, the others share one
    collaborative_dimensions: int = Field(64, ge=1)
    collaborative_window: int = Field(10, ge=1)  # events on either side
    collaborative_shift: float = Field(1.0, gt=0)  # k of Levy & Goldberg 2014: log(k) is taken off the PMI
    seed: int = 17
