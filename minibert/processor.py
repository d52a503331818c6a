"""What the processor has units of its own for."""

from __future__ import annotations

from functools import cache

import torch


@cache
def has_unit(name: str) -> bool:
    """Whether the CPU has it: "avx512_bf16", "amx_bf16", … (`torch.cpu.get_capabilities`)."""
    return bool(torch.cpu.get_capabilities().get(name))
