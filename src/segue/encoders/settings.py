"""Settings of the encoders."""

from __future__ import annotations

from pydantic import Field

from segue.settings import Settings

Colours = tuple[float, float, float]  # red, green, blue


class OnnxImageSettings(Settings):
    """What an ``.onnx`` file that ``image_model`` names expects; a named encoder knows its own.

    A pixel value v of 0 … 255 becomes ``(v - mean) / scale``, channel by channel.
    """

    size: int = Field(224, ge=8)  # pixels, both sides
    mean: Colours = (127.0, 127.0, 127.0)
    scale: Colours = (128.0, 128.0, 128.0)
    output: str | None = None  # the model's output that holds the vectors; None: its first
    # Of the file. It must be given: parameters say what a run is made from, and a path says nothing of its content.
    sha256: str | None = None


class ContentQualitySettings(Settings):
    """What the quality report calls alike, short or blank, and from where on its check warns."""

    near_duplicate_cosine: float = Field(0.98, gt=0, le=1)
    near_duplicate_bits: int = Field(4, ge=0, le=32)  # of the 64 of a picture's difference hash
    max_queries: int = Field(20_000, ge=1)  # items whose neighbours are looked at; more are sampled (seeded)
    short_text: int = Field(20, ge=1)  # characters
    min_coverage: float = Field(0.5, ge=0, le=1)  # of the items, by a modality that any item has
    max_duplicate_share: float = Field(0.1, ge=0, le=1)  # of the items that have the modality
    max_unusable_image_share: float = Field(0.02, ge=0, le=1)  # of the picture files that are there
    examples: int = Field(20, ge=0)  # items listed by name for each finding


class EncoderSettings(Settings):
    """How items become vectors before they become codes."""

    text_model: str = (
        "minilm"  # an entry point of segue.encoders, or the folder of a sentence-transformers model
    )
    text_batch_size: int = Field(8, ge=1)  # texts of equal token length in one forward pass
    text_max_tokens: int = Field(128, ge=8)
    image_model: str = "efficientnet_lite0"  # an entry point of segue.encoders, or the path of an .onnx file
    image_onnx: OnnxImageSettings = OnnxImageSettings()
    image_batch_size: int = Field(8, ge=1)  # pictures in one forward pass; the last one is filled up
    image_threads: int = Field(2, ge=1)  # forward passes side by side; changes no vector
    image_min_side: int = Field(16, ge=1)  # pixels; a smaller picture says nothing
    image_min_deviation: float = Field(1.0, ge=0)  # of 0 … 255 grey values; a flatter picture is blank
    image_max_pixels: int = Field(80_000_000, ge=1)  # a larger one is not decoded
    attribute_max_categories: int = Field(
        512, ge=0
    )  # the most frequent ones get a column, the others share one
    collaborative_dimensions: int = Field(64, ge=1)
    collaborative_window: int = Field(10, ge=1)  # events on either side
    collaborative_shift: float = Field(1.0, gt=0)  # k of Levy & Goldberg 2014: log(k) is taken off the PMI
    quality: ContentQualitySettings = ContentQualitySettings()
    seed: int = 17
