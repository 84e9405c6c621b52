"""One quiet, repeatable machine for every test: set before any framework is imported.

Each value is a default only, so that ``CUDA_VISIBLE_DEVICES=0 pytest tests/test_x.py`` is obeyed.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator

for _name, _value in {
    # The workers of pytest-xdist share the cores; threads inside each would only fight over them,
    # and sums of floats come out in one order.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    # Accelerators are hidden: they round differently, and TensorFlow takes all of their memory.
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    # Pictures go to files, and nothing is fetched: a test that needs the network is a mistake.
    "MPLBACKEND": "Agg",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(_name, _value)

import numpy as np
import pytest

SEED = 20150710


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """The same random numbers for each test, alone or in any order; loads no framework."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "manual_seed"):
        torch.manual_seed(SEED)
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and hasattr(tensorflow, "random"):
        tensorflow.random.set_seed(SEED)
    yield


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of its own for each test: the same numbers on every run."""
    return np.random.default_rng(SEED)
