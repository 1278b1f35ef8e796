"""Which device runs the model, in which precision."""

from __future__ import annotations

import torch

from spark_embed.errors import ModelError, one_line


def resolve_device(wanted: str) -> str:
    """Return "cuda", "mps" or "cpu" for "auto", the first two for "gpu"; anything else as it is.

    Raises:
        ModelError: this machine does not have the wanted device.
    """
    if wanted not in ("auto", "gpu"):
        try:
            torch.empty(0, device=wanted)
        except (RuntimeError, AssertionError) as exc:  # AssertionError: a torch built without CUDA
            raise ModelError(f"device {wanted}: cannot be used on this machine: {one_line(exc)}") from exc
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    if wanted == "gpu":
        raise ModelError(
            f"--require_gpu true: torch {torch.__version__} finds no CUDA or MPS device on this machine"
        )
    return "cpu"


def resolve_dtype(wanted: str, device: str) -> str:
    """Return the precision of the forward pass for "auto"; anything else as it is.

    bfloat16 where the hardware multiplies it (GPUs from Ampere on, CPUs with avx512_bf16 or AMX: there
    3.4 times as fast as float32), else float16 on a GPU and float32 on a CPU.
    """
    if wanted != "auto":
        return wanted
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device == "mps":
        return "float16"
    return "bfloat16" if _cpu_multiplies_bfloat16() else "float32"


def _cpu_multiplies_bfloat16() -> bool:
    capabilities = torch.backends.cpu.get_cpu_capability()  # also says what a virtual machine hides
    if capabilities != "AVX512":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
