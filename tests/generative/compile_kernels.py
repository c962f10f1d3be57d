"""Compiles the fused kernels for a GPU that need not be there: ``python -m tests.generative.compile_kernels``.

Prints, as JSON, the bytes that a block of each shares, by kernel, type and width of a head."""

from __future__ import annotations

import json
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from segue.generative import hstu_kernel
from segue.training.jagged import WIDEST

H100 = GPUTarget("cuda", 90, 32)
TYPES = {torch.bfloat16: "bf16", torch.float32: "fp32"}
KERNELS = ("_forward", "_backward_of_queries", "_backward_of_keys")


def shared(name: str, dtype: torch.dtype, width: int) -> int:
    kernel = getattr(hstu_kernel, name)
    query, offsets = torch.empty(1, 2, width, dtype=dtype), torch.zeros(2, dtype=torch.int64)
    _, shape = hstu_kernel._launch(query, offsets, 200, (torch.empty(201), torch.empty(32)))
    constants: dict[str, Any] = {**shape, "copies": hstu_kernel._COPIES}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    types = {"times": "*i64", "offsets": "*i64"}
    types |= dict.fromkeys(("by_position", "by_time", "to_position", "to_time"), "*fp32")
    signature = {
        each: "constexpr" if each in constants else types.get(each, f"*{TYPES[dtype]}")
        for each in kernel.arg_names
    }
    compiled = triton.compile(ASTSource(kernel, signature, constexprs=constants), target=H100)
    return int(compiled.metadata.shared)


if __name__ == "__main__":
    wanted = ((torch.bfloat16, 64), (torch.float32, WIDEST))
    found = {
        f"{name} {TYPES[dtype]} {width}": shared(name, dtype, width)
        for dtype, width in wanted
        for name in KERNELS
    }
    print(json.dumps(found))
