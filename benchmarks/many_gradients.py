"""Integrated gradients and SmoothGrad: the bare calls, loops written by hand, peers, and ours.

Every function makes the same number of forward and backward calls of the model on as many rows at
a time; the bare ones do nothing else, on inputs that were made beforehand.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import nets
import numpy as np

__all__ = ["SIGMA", "keras_calls", "tf_explain_calls", "torch_calls"]

Calls = dict[str, Callable[[], Any]]

SIGMA = 0.15


def nodes(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and weights of Gauss-Legendre in 0..1, float32."""
    t, w = np.polynomial.legendre.leggauss(steps)
    return ((t + 1) / 2).astype(np.float32), (w / 2).astype(np.float32)


def torch_calls(
    name: str, batch: int, steps: int, rows: int, size: int = 224, device: str = "cpu"
) -> tuple[Callable[[], Any], Calls, Calls]:
    """(the bare calls, integrated gradients by name, SmoothGrad by name)."""
    import torch

    import whence

    model = nets.torch_net(name).to(device).requires_grad_(False)
    x = torch.from_numpy(nets.picture(batch, "first", size)).to(device)
    with torch.no_grad():
        top = model(x).argmax(1)
    sample = torch.arange(batch, device=device).repeat_interleave(steps)
    parts = [slice(i, i + rows) for i in range(0, batch * steps, rows)]
    t, w = (torch.from_numpy(a).to(device).repeat(batch)[:, None, None, None] for a in nodes(steps))
    scale = SIGMA * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))[:, None, None, None]

    def settled(found: Any) -> Any:
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    def gradient(z: Any, part: slice) -> Any:
        z = z.requires_grad_()
        chosen = model(z).gather(1, top[sample[part], None]).sum()
        return torch.autograd.grad(chosen, z)[0]

    made = [x[sample[part]] for part in parts]

    def bare() -> None:
        for part, z in zip(parts, made, strict=True):
            gradient(z.detach(), part)
        settled(None)

    def path() -> Any:
        total = torch.zeros_like(x)
        for part in parts:
            grads = gradient(t[part] * x[sample[part]], part)
            total.index_add_(0, sample[part], w[part] * grads)
        return settled(total * x)

    def smooth() -> Any:
        draw = torch.Generator(device=device).manual_seed(0)
        total = torch.zeros_like(x)
        for part in parts:
            z = x[sample[part]]
            noise = torch.randn(z.shape, generator=draw, device=device)
            grads = gradient(z + scale[sample[part]] * noise, part)
            total.index_add_(0, sample[part], grads / steps)
        return settled(total)

    def ours(method: str, **options: Any) -> Any:
        return settled(whence.explain(model, x, method, target=top, rows=rows, **options))

    paths = {
        "by hand": path,
        "whence": lambda: ours("integrated-gradients", steps=steps).attribution,
    }
    smooths = {"by hand": smooth, "whence": lambda: ours("smoothgrad", n=steps).attribution}
    _with_captum(paths, smooths, model, x, top, steps, rows, float(scale.mean()), settled)
    return bare, paths, smooths


def _with_captum(
    paths: Calls, smooths: Calls, model: Any, x: Any, top: Any, steps: int, rows: int, sigma: float,
    settled: Callable[[Any], Any],
) -> None:  # fmt: skip
    """Captum's, as many rows a call; SmoothGrad's noise is one width for the whole batch there."""
    try:
        from captum import attr
    except ImportError:
        return
    along = attr.IntegratedGradients(model)
    around = attr.NoiseTunnel(attr.Saliency(model))
    paths["captum"] = lambda: settled(
        along.attribute(x, target=top, n_steps=steps, internal_batch_size=rows)
    )

    def smooth() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = around.attribute(
                x.clone().requires_grad_(), target=top, nt_type="smoothgrad", nt_samples=steps,
                nt_samples_batch_size=max(rows // len(x), 1), stdevs=sigma, abs=False,
            )  # fmt: skip
        return settled(found)

    smooths["captum"] = smooth


def keras_calls(
    name: str, batch: int, steps: int, rows: int, size: int = 224
) -> tuple[Callable[[], Any], Calls, Calls]:
    """The same for a Keras model; the loops by hand are of one compiled function a chunk."""
    import tensorflow as tf

    import whence

    model = nets.keras_net(name)
    x = tf.constant(nets.picture(batch, "last", size))
    top = tf.argmax(model(x, training=False), axis=1)
    sample = np.repeat(np.arange(batch), steps)
    parts = [slice(i, i + rows) for i in range(0, batch * steps, rows)]
    t, w = (np.tile(a, batch)[:, None, None, None] for a in nodes(steps))
    low, high = (f(x, axis=[1, 2, 3]) for f in (tf.reduce_min, tf.reduce_max))
    scale = SIGMA * (high - low)[:, None, None, None]

    @tf.function
    def gradient(z: Any, chosen: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(z)
            out = tf.gather(model(z, training=False), chosen, batch_dims=1)
        return tape.gradient(out, z)

    @tf.function
    def path_part(z: Any, chosen: Any, place: Any, weight: Any) -> Any:
        return tf.reduce_sum(weight * gradient(place * z, chosen), axis=0)

    @tf.function
    def smooth_part(z: Any, chosen: Any, sigma: Any, seed: Any) -> Any:
        noise = tf.random.stateless_normal(tf.shape(z), seed=[0, seed])
        return tf.reduce_sum(gradient(z + sigma * noise, chosen), axis=0) / steps

    def taken(part: slice) -> tuple[Any, Any, int]:
        first = int(sample[part][0])
        return tf.gather(x, sample[part]), tf.gather(top, sample[part]), first

    made = [taken(part) for part in parts]

    def bare() -> None:
        for z, chosen, _ in made:
            gradient(z, chosen).numpy()

    def path() -> Any:
        total = np.zeros(x.shape, np.float32)
        for part in parts:
            z, chosen, first = taken(part)
            total[first] += path_part(z, chosen, tf.constant(t[part]), tf.constant(w[part])).numpy()
        return total * x.numpy()

    def smooth() -> Any:
        total = np.zeros(x.shape, np.float32)
        for number, part in enumerate(parts):
            z, chosen, first = taken(part)
            total[first] += smooth_part(z, chosen, scale[first], tf.constant(number)).numpy()
        return total

    def ours(method: str, **options: Any) -> Any:
        found = whence.explain(model, x, method, target=top.numpy(), rows=rows, **options)
        return found.attribution.numpy()

    paths = {"by hand": path, "whence": lambda: ours("integrated-gradients", steps=steps)}
    return bare, paths, {"by hand": smooth, "whence": lambda: ours("smoothgrad", n=steps)}


def tf_explain_calls(name: str, steps: int, size: int = 224) -> tuple[Callable[[], Any], Calls]:
    """tf-explain, one picture, all steps in one call, as it always does; ours with equal rows."""
    bare, paths, _ = keras_calls(name, 1, steps, steps, size)
    import tensorflow as tf
    from tf_explain.core import IntegratedGradients

    model, x = nets.keras_net(name), nets.picture(1, "last", size)
    top = int(tf.argmax(model(x, training=False)[0]))
    theirs = IntegratedGradients()
    paths["tf-explain"] = lambda: theirs.explain((x, None), model, top, n_steps=steps)
    return bare, paths
