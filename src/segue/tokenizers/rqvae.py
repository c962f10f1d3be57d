"""RQ-VAE: residual quantization of what a small encoder makes of the vector (TIGER; Rajput et al. 2023, section 3.1).

Encoder and decoder are learnt with the codebooks: reconstruction plus, a level, ‖sg[r] − e‖² + β‖r − sg[e]‖² (Zeghidour
et al. 2021, SoundStream; the straight-through gradient and both terms from van den Oord et al. 2017), from a k-means
start, with codes that nobody uses moved onto residuals of the batch (Dhariwal et al. 2020, Jukebox, section 3.1). With
``rqvae.sinkhorn`` the last quantized level is shared out evenly over each batch while fitting (LC-Rec, Zheng et al.
2024, section 3.2.2). The early stop looks at items held out.

Fitting is torch on one thread with deterministic kernels; what is kept is plain arrays. Encoding is NumPy in float64,
greedy and nearest-centroid, so that serving gives the same codes everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from segue.tokenizers import residual
from segue.tokenizers.registry import Codes
from segue.tokenizers.reproducible import deterministic
from segue.tokenizers.residual_kmeans import k_means
from segue.tokenizers.screens import Floats, Table
from segue.tokenizers.settings import RqVaeSettings, TokenizerSettings

HELD_OUT = 0.1  # of the items, for the early stop; with fewer than _MIN_HELD_OUT of them all items stand in
_MIN_HELD_OUT = 10

Layers = tuple[tuple[Table, Table], ...]  # (weight [out, in], bias [out]) of each layer, ReLU between them


@dataclass(frozen=True)
class RqVae:
    """A prefix stands for the decoder's output at the sum of its centroids."""

    name: ClassVar[str] = "rqvae"

    scale: Table  # [1] what vectors are multiplied with
    encoder: Layers
    decoder: Layers
    centroids: tuple[Table, ...]  # per level [codes, latent]

    @property
    def used_sizes(self) -> tuple[int, ...]:
        return tuple(len(table) for table in self.centroids)

    @classmethod
    def fit(cls, vectors: npt.NDArray[np.float32], settings: TokenizerSettings) -> Self:
        """Raises DataError for vectors that are not finite or all the same.

        A level has at most as many codes as there were different residuals at the start.
        """
        residual.require_different_vectors(vectors)
        scale = np.array([1.0 / np.sqrt((vectors.astype(np.float64) ** 2).mean())], dtype=np.float32)
        rows = torch.from_numpy(np.ascontiguousarray(vectors * scale))
        with deterministic(settings.seed):
            module = _train(rows, settings)
        return cls(
            scale=scale,
            encoder=_layers(module.encoder),
            decoder=_layers(module.decoder),
            centroids=tuple(table.detach().numpy().copy() for table in module.tables),
        )

    def encode(self, vectors: npt.NDArray[np.float32]) -> Codes:
        """Greedy residual codes [N, P] of the encoder's output: the nearest centroid, ties to the smaller code."""
        return residual.encode(self._latents(vectors), self.centroids)

    def reconstruct(self, prefixes: Codes) -> Floats:
        """The decoder's output [N, d]."""
        decoded = _forward(residual.reconstruct(prefixes, self.centroids), self.decoder)
        return np.asarray(decoded / float(self.scale[0]))

    def nearest_prefixes(self, vector: npt.NDArray[np.float32], width: int, most: int | None = None) -> Codes:
        """Nearest in the latent space, where the codes are chosen too; exact where nothing is pruned."""
        return self._prefixes(self._latents(vector[None, :])[0], width, most)

    @cached_property
    def _prefixes(self) -> residual.PrefixSearch:
        return residual.PrefixSearch(self.centroids)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        arrays = {"scale": self.scale}
        for part, layers in (("encoder", self.encoder), ("decoder", self.decoder)):
            for depth, (weight, bias) in enumerate(layers):
                arrays[f"{part}.{depth}.weight"], arrays[f"{part}.{depth}.bias"] = weight, bias
        return {**arrays, **{f"quantizer.{level}": table for level, table in enumerate(self.centroids)}}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], level_sizes: tuple[int, ...]) -> Self:
        tables = residual.tables_of(arrays, "quantizer", level_sizes)
        encoder, decoder = _stored(arrays, "encoder"), _stored(arrays, "decoder")
        latent = tables[0].shape[1]
        if encoder[-1][0].shape[0] != latent or decoder[0][0].shape[1] != latent:
            raise ValueError(f"the encoder and the decoder do not meet at the codebook's {latent} dimensions")
        scale = arrays["scale"]
        if scale.shape != (1,) or not 0 < float(scale[0]) < np.inf:
            raise ValueError("scale must be one finite number above 0")
        return cls(scale=scale, encoder=encoder, decoder=decoder, centroids=tuple(tables))

    def _latents(self, vectors: npt.NDArray[np.float32]) -> Floats:
        return _forward(vectors.astype(np.float64) * float(self.scale[0]), self.encoder)


def _forward(rows: Floats, layers: Layers) -> Floats:
    """The multi-layer perceptron in float64."""
    for depth, (weight, bias) in enumerate(layers):
        rows = rows @ weight.T.astype(np.float64) + bias
        if depth < len(layers) - 1:
            rows = np.maximum(rows, 0.0)
    return rows


def _layers(module: nn.Sequential) -> Layers:
    return tuple(
        (each.weight.detach().numpy().copy(), each.bias.detach().numpy().copy())
        for each in module
        if isinstance(each, nn.Linear)
    )


def _stored(arrays: Mapping[str, npt.NDArray[Any]], part: str) -> Layers:
    """Raises KeyError where there is no layer, ValueError where layers do not fit each other."""
    numbers = [int(name.split(".")[1]) for name in arrays if name.startswith(f"{part}.")]
    layers = tuple(
        (arrays[f"{part}.{each}.weight"], arrays[f"{part}.{each}.bias"])
        for each in range(max(numbers, default=0) + 1)
    )
    for each, (weight, bias) in enumerate(layers):
        fits = weight.ndim == 2 and bias.shape == weight.shape[:1]
        if not fits or (each and weight.shape[1] != layers[each - 1][0].shape[0]):
            raise ValueError(f"{part}.{each} does not fit: weight {weight.shape}, bias {bias.shape}")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ValueError(f"{part}.{each} has values that are not finite")
    return layers


class _Module(nn.Module):
    def __init__(self, width: int, settings: RqVaeSettings) -> None:
        super().__init__()
        sizes = [width, *settings.hidden, settings.latent]
        self.encoder = _perceptron(sizes)
        self.decoder = _perceptron(sizes[::-1])
        self.tables = nn.ParameterList()
        self.settings = settings

    def start(self, latents: Tensor, settings: TokenizerSettings) -> None:
        """k-means on what the untrained encoder makes of the rows, a level after the other."""
        left = latents.detach()
        for level, size in enumerate(settings.level_sizes[:-1]):
            table = torch.from_numpy(
                k_means(left.numpy(), size, settings.iterations, settings.seed + level).copy()
            )
            self.tables.append(nn.Parameter(table))
            left = left - table[_nearest(left, table)]

    def quantize(self, latents: Tensor, *, even: bool) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """The sum of the centroids [B, latent], the codebook loss, and for each level its codes [B] and what it
        was given [B, latent]."""
        left, total, loss = latents, torch.zeros_like(latents), latents.new_zeros(())
        used: list[tuple[Tensor, Tensor]] = []
        for level, table in enumerate(self.tables):
            with torch.no_grad():
                if even and level == len(self.tables) - 1:
                    codes = _sinkhorn(
                        torch.cdist(left, table) ** 2,
                        self.settings.sinkhorn_epsilon,
                        self.settings.sinkhorn_iterations,
                    )
                else:
                    codes = _nearest(left, table)
            chosen = torch.nn.functional.embedding(codes, table)
            loss = loss + ((left.detach() - chosen) ** 2).mean()
            loss = loss + self.settings.commitment * ((left - chosen.detach()) ** 2).mean()
            used.append((codes, left.detach()))
            total = total + chosen
            left = left - chosen.detach()
        return total, loss, used

    def revive(self, used: Sequence[tuple[Tensor, Tensor]], counts: Sequence[Tensor]) -> None:
        """Codes that no item of the epoch used move onto residuals of its last batch, drawn at random."""
        with torch.no_grad():
            for table, (_, left), count in zip(self.tables, used, counts, strict=True):
                dead = torch.nonzero(count == 0).flatten()
                if len(dead):
                    table[dead] = left[torch.randint(len(left), (len(dead),))]


def _perceptron(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _nearest(rows: Tensor, table: Tensor) -> Tensor:
    return torch.argmin((table**2).sum(dim=1) - 2.0 * rows @ table.T, dim=1)


def _sinkhorn(costs: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes [B] of the most probable transport under even use (Cuturi 2013), in the logarithm: costs [B, k]."""
    plan = -costs.double() / (epsilon * costs.mean().clamp(min=1e-12).double())
    for _ in range(iterations):
        plan = plan - plan.logsumexp(dim=0, keepdim=True)  # every code the same
        plan = plan - plan.logsumexp(dim=1, keepdim=True)  # every row one
    return plan.argmax(dim=1)


def _train(rows: Tensor, settings: TokenizerSettings) -> _Module:
    how = settings.rqvae
    module = _Module(rows.shape[1], how)
    order = torch.randperm(len(rows))
    count = int(HELD_OUT * len(rows))
    held, seen = order[:count], order[count:]
    if count < _MIN_HELD_OUT:
        held = seen = order
    with torch.no_grad():
        module.start(module.encoder(rows[seen]), settings)
    optimizer = torch.optim.AdamW(module.parameters(), lr=how.learning_rate, weight_decay=0.0)
    best, waited = _held_out_error(module, rows[held]), 0
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    for _ in range(how.epochs):
        counts = [torch.zeros(len(table), dtype=torch.int64) for table in module.tables]
        used: list[tuple[Tensor, Tensor]] = []
        for batch in torch.split(seen[torch.randperm(len(seen))], how.batch_size):
            latents = module.encoder(rows[batch])
            quantized, codebook_loss, used = module.quantize(latents, even=how.sinkhorn)
            through = latents + (quantized - latents).detach()  # straight through
            loss = ((module.decoder(through) - rows[batch]) ** 2).mean() + codebook_loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for total, (codes, _) in zip(counts, used, strict=True):
                total += torch.bincount(codes, minlength=len(total))
        error = _held_out_error(module, rows[held])
        if error < best:
            best, waited = error, 0
            kept = {name: value.clone() for name, value in module.state_dict().items()}
        else:
            waited += 1
            if waited >= how.patience:
                break
        module.revive(used, counts)
    module.load_state_dict(kept)
    return module


def _held_out_error(module: _Module, rows: Tensor) -> float:
    with torch.no_grad():
        quantized, _, _ = module.quantize(module.encoder(rows), even=False)
        return float(((module.decoder(quantized) - rows) ** 2).mean())
