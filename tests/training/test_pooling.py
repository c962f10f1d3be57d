from __future__ import annotations

import torch
import torch.nn.functional as F

from segue.training.pooling import aged_mean


def test_the_mean_by_definition_and_blind_to_what_comes_later() -> None:
    generator = torch.Generator().manual_seed(1)
    history = torch.randn(2, 5, 3, generator=generator)
    scores, slope = torch.randn(2, 5, generator=generator), torch.tensor(0.4)
    found = aged_mean(history, scores, slope)
    for row in range(2):
        for now in range(5):
            weights = torch.softmax(
                torch.stack([scores[row, at] - F.softplus(slope) * (now - at) for at in range(now + 1)]),
                dim=0,
            )
            torch.testing.assert_close(found[row, now], weights @ history[row, : now + 1])
    later = history.clone()
    later[:, 3:] = 7.0
    torch.testing.assert_close(aged_mean(later, scores, slope)[:, :3], found[:, :3])
