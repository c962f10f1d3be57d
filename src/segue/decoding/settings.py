"""Settings of decoding and fusion."""

from __future__ import annotations

from segue.settings import Settings


class DecodingSettings(Settings):
    beam_width: int = 100
    dense_candidates: int = 100
    # Weights of the dense score tried on validation. With 1 among them a path could be chosen that generates nothing.
    fusion_grid: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9)
