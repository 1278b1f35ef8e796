"""torch.compile for one batch size; knows no images."""

from __future__ import annotations

import torch
from torch._inductor import config as inductor

from spark_embed.models.vision.outputs import Forward, Outputs, Tensors


def compile_forward(forward: Forward, n_rows: int) -> Forward:
    """Return `forward` compiled for batches of `n_rows`; smaller ones are filled up with zeros.

    So there is one compilation, which takes 10 to 20 s at the first call, instead of one for every size.
    Larger batches run as they did. The weights become constants of the compiled code (inductor's
    "freezing"), so it must run in inference mode and they must not change any more.
    """
    inductor.freezing = True  # for the whole process, which has one model
    compiled = torch.compile(forward, dynamic=False)

    def forward_filled(inputs: Tensors) -> Outputs:
        n_given = len(next(iter(inputs.values())))
        if n_given > n_rows:
            return forward(inputs)
        filled = {name: _filled(values, n_rows) for name, values in inputs.items()}
        return {name: values[:n_given] for name, values in compiled(filled).items()}

    return forward_filled


def _filled(values: torch.Tensor, n_rows: int) -> torch.Tensor:
    if len(values) == n_rows:
        return values
    filled = torch.zeros_like(values[:1]).expand(n_rows, *values.shape[1:]).clone()
    filled[: len(values)] = values
    return filled.contiguous(memory_format=_memory_format(values))


def _memory_format(values: torch.Tensor) -> torch.memory_format:
    is_last = values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format
