"""A smooth function of two layers, in NumPy with its gradient, and as a PyTorch function."""

from __future__ import annotations

from typing import Any

import numpy as np

from whence import frameworks, targets
from whence.methods.base import Job

_RNG = np.random.default_rng(4)
A = _RNG.normal(size=(12, 12))
B = _RNG.normal(size=12)


def f(x: np.ndarray) -> float:
    """B . sin(A x) + x0 x1, for x of 12 elements in any shape."""
    x = x.reshape(-1)
    return float(B @ np.sin(A @ x) + x[0] * x[1])


def grad(x: np.ndarray) -> np.ndarray:
    """Its gradient."""
    flat = x.reshape(-1)
    g = A.T @ (B * np.cos(A @ flat))
    g[0] += flat[1]
    g[1] += flat[0]
    return g.reshape(x.shape)


def torch_f(x: Any) -> Any:
    """The same on a batch of tensors, (batch,)."""
    import torch

    flat = x.reshape(len(x), -1)
    a, b = (torch.as_tensor(w, dtype=x.dtype) for w in (A, B))
    return torch.sin(flat @ a.T) @ b + flat[:, 0] * flat[:, 1]


def kinked(x: np.ndarray) -> float:
    """B . |A x - 1| - x0 relu(x1): a kink wherever A x passes 1 in a row."""
    x = x.reshape(-1)
    return float(B @ np.abs(A @ x - 1) - x[0] * max(x[1], 0.0))


def kinked_grad(x: np.ndarray) -> np.ndarray:
    """Its gradient."""
    flat = x.reshape(-1)
    g = A.T @ (B * np.sign(A @ flat - 1))
    g[0] -= max(flat[1], 0.0)
    g[1] -= flat[0] * (flat[1] > 0)
    return g.reshape(x.shape)


def torch_kinked(x: Any) -> Any:
    """The same on a batch of tensors, (batch,)."""
    import torch

    flat = x.reshape(len(x), -1)
    a, b = (torch.as_tensor(w, dtype=x.dtype) for w in (A, B))
    return torch.abs(flat @ a.T - 1) @ b - flat[:, 0] * torch.relu(flat[:, 1])


def job(model: Any, x: Any, target: Any = None, at: str | None = None) -> Job:
    """What ``explain`` makes of its arguments."""
    framework = frameworks.find(model, x)
    inputs = frameworks.gather(framework, model, x)
    goal = targets.make(target)
    arguments = {k: framework.xp.asarray(v) for k, v in goal.arguments(inputs.batch).items()}
    return Job(framework, model, inputs, goal, at, arguments)
