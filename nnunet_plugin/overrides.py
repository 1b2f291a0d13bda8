"""What environment variables change of a trainer: ECHOSYNTH_NNUNET_EPOCHS, _ITERATIONS, _BATCH, _SEED, _FLIP, _PRECISION, _THREADS."""

from __future__ import annotations

import os
import random

import numpy as np
import torch

_PREFIX = "ECHOSYNTH_NNUNET_"
_SLURM = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")  # the second is of all tasks of the job


def number(name: str, default: int) -> int:
    """A whole number of at least 1. Raises RuntimeError, which names the variable, for anything else."""
    text = os.environ.get(_PREFIX + name, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise RuntimeError(f"{_PREFIX}{name}={text}: expected a whole number of at least 1")
    return int(text)


def threads() -> int:
    """Of a training on a CPU: one a core that this process may use; in a Slurm job no more than its cores, as not every
    cluster binds jobs to cores. OMP_NUM_THREADS=1 does not count: it is for nnU-Net's worker processes, and one thread
    here costs 1.7 times.
    """
    given = [int(n) for name in _SLURM if (n := os.environ.get(name, "")).isdecimal()]
    cores = max(1, min([len(os.sched_getaffinity(0)), *given]))
    return min(cores, number("THREADS", cores))


def seed() -> int | None:
    """The seed that makes a training repeatable, or None. Raises RuntimeError for what is no whole number from 0."""
    text = os.environ.get(_PREFIX + "SEED")
    if not text:
        return None
    if not text.isdecimal():
        raise RuntimeError(f"{_PREFIX}SEED={text}: expected a whole number of at least 0")
    return int(text)


def flip() -> bool:
    """Whether half of the images are mirrored."""
    return os.environ.get(_PREFIX + "FLIP") == "1"


def autocast() -> bool:
    """Whether a CPU that multiplies in bf16 may."""
    return os.environ.get(_PREFIX + "PRECISION") != "fp32"


def seed_everything(seed: int) -> None:
    """Python's, numpy's and torch's generators, and torch's deterministic algorithms."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**63)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True, warn_only=True)
