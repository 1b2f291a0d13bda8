"""Which device and which precision a command computes with."""

from __future__ import annotations

import os
import re

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo_synth.errors import RunError


def training_device(device: str) -> str:
    """auto resolved to cuda or cpu. Raises RunError for a device that is not there, or that is none of these."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", device):
        raise RunError(f"--device {device}: expected auto, cpu, cuda or cuda:N")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RunError(f"--device {device}: no CUDA device is available; use --device cpu")
    if ":" in device:
        index, count = int(device.partition(":")[2]), torch.cuda.device_count()
        if index >= count:
            raise RunError(f"--device {device}: found {count} CUDA devices, cuda:0 to cuda:{count - 1}")
        torch.cuda.set_device(index)
    elif device == "cuda" and "LOCAL_RANK" in os.environ:  # one process a GPU under torchrun
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return device


def to_device(values: NDArray[np.generic] | Tensor, device: str) -> Tensor:
    """`values` on `device`, same shape and dtype.

    On the way to a GPU through pinned memory: a copy out of ordinary memory would first wait for all that is queued there.
    """
    here = values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    if device.startswith("cuda") and not here.is_cuda:
        return here.pin_memory().to(device, non_blocking=True)
    return here.to(device)


def memory_left(device: str) -> int | None:
    """Bytes that are free on a GPU, what torch keeps for itself included; None on other devices."""
    if not device.startswith("cuda"):
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def resolve_precision(precision: str, device: str) -> str:
    """auto resolved: bf16 where the hardware multiplies in it, else fp32. Raises RunError for an unknown one."""
    if precision not in ("auto", "fp32", "bf16", "fp16"):
        raise RunError(f"--precision {precision}: expected auto, fp32, bf16 or fp16")
    if precision == "fp16" and device == "cpu":
        raise RunError("--precision fp16: CPUs compute in bf16 or fp32; choose one of them")
    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    """AVX512-BF16 or AMX: without them bf16 is emulated and slower than fp32."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as f:
            flags = next((line for line in f if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
