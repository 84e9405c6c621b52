"""The array functions in NumPy give what torch's give, and say what NumPy has not got."""

from __future__ import annotations

import numpy as np
import pytest

from whence.errors import InputError
from whence.frameworks.numpy import NumpyFunctions

torch = pytest.importorskip("torch")
from whence.frameworks.torch.functions import TorchFunctions  # noqa: E402 (needs torch)

XP, TORCH = NumpyFunctions(), TorchFunctions()

CASES = {
    "shares": lambda xp, a, b: xp.shares(a, b, 0.1),
    "scaled": lambda xp, a, b: xp.scaled(a * 1, b),
    "inner": lambda xp, a, b: xp.inner(a, b),
    "inner, broadcast": lambda xp, a, b: xp.inner(a, b[:1]),
    "max": lambda xp, a, b: xp.max(a, axis=(1, 2), keepdims=True),
    "mean": lambda xp, a, b: xp.mean(a, axis=2),
    "maximum": lambda xp, a, b: xp.maximum(a, 0.0) - xp.minimum(a, b),
    "transpose": lambda xp, a, b: xp.transpose(a, (0, 2, 1)),
    "take": lambda xp, a, b: xp.take(a, xp.argmax(b[0, 0], axis=0)[None], 2),
    "one_hot": lambda xp, a, b: xp.one_hot(xp.argmax(a, axis=2), 4, a),
    "where": lambda xp, a, b: xp.where(xp.isfinite(a / xp.abs(b - b)), a, b),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_same_as_torch(case, rng):
    a, b = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4))
    b[0, 0, 0] = 0.0
    with np.errstate(divide="ignore"):
        got = case(XP, a, b)
    expected = case(TORCH, torch.tensor(a), torch.tensor(b))
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-12)


def test_numpy_has_no_gradients():
    with pytest.raises(InputError, match="NumPy has no gradients; give torch or TensorFlow"):
        XP.vjp(lambda x: x * x, [np.ones(2)])
