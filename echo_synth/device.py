"""Which device and which precision a command computes with."""

from __future__ import annotations

import os
import re

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo_synth.errors import RunError

INT8 = ("int8-bf16", "int8-fp32")  # large convolutions in int8, the rest in the other


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
    """auto resolved: bf16 where the hardware multiplies in it, else fp16 on a GPU and fp32 on a CPU. Raises RunError for an unknown one."""
    if precision not in ("auto", "fp32", "bf16", "fp16"):
        raise RunError(f"--precision {precision}: expected auto, fp32, bf16 or fp16")
    if precision == "fp16" and device == "cpu":
        raise RunError("--precision fp16: CPUs compute in bf16 or fp32; choose one of them")
    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _cpu_has("avx512_bf16", "amx_bf16") else "fp32"


def drawing_precision(precision: str, device: str) -> str:
    """`resolve_precision`, and for int8 the one that its other operations take beside it: int8-bf16 or int8-fp32.

    Raises RunError where the device does not multiply int8, and for an unknown one.
    """
    if precision not in ("int8", *INT8):
        return resolve_precision(precision, device)
    if device != "cpu":
        raise RunError(f"--precision int8: for CPUs only, found --device {device}; use bf16 or fp16")
    if not _cpu_has("avx512_vnni", "avx_vnni", "amx_int8") or not hasattr(torch.ops.onednn, "qconv_pointwise"):
        raise RunError("--precision int8: this CPU, or this build of torch, has no VNNI instructions; use bf16 or fp32")
    return precision if precision in INT8 else f"int8-{resolve_precision('auto', device)}"


def _cpu_has(*instructions: str) -> bool:
    """Whether /proc/cpuinfo lists one of them. Without such instructions bf16 is emulated and slower than fp32, and sums of int8 overflow."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as f:
            flags = next((line for line in f if line.startswith("flags")), "")
    except OSError:
        return False
    return any(name in flags.split() for name in instructions)
