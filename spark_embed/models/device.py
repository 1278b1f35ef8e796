"""Which device of this machine runs the model, in which precision."""

from __future__ import annotations

import socket

import torch

from spark_embed.errors import ModelError, one_line


def resolve_device(wanted: str) -> str:
    """Return "cuda", "mps" or "cpu" for "auto", the first two for "gpu"; anything else as it is.

    For "auto:1" and "gpu:1" the same, but of the CUDA devices number 1.

    Raises:
        ModelError: this machine does not have the wanted device.
    """
    kind, _, number = wanted.partition(":")
    if kind not in ("auto", "gpu"):
        return _checked(wanted)
    if torch.cuda.is_available():
        # The only one may have another name with Spark: a MIG slice, a UUID, the host's number of it.
        is_only = torch.cuda.device_count() == 1
        return _checked(f"cuda:{number}") if number and not is_only else "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    if kind == "gpu":
        given = f", though Spark gave this task GPU {number}" if number else ""
        raise ModelError(
            f"--require_gpu true: torch {torch.__version__} finds no CUDA or MPS device on host "
            f"{socket.gethostname()}{given}"
        )
    return "cpu"


def _checked(device: str) -> str:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as exc:  # AssertionError: a torch built without CUDA
        host = socket.gethostname()
        raise ModelError(f"device {device}: cannot be used on host {host}: {one_line(exc)}") from exc
    return device


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
