"""Occlusion, RISE, KernelSHAP and LIME: the bare calls, peers, loops by hand, and ours.

One picture of a ResNet-18, as many forward calls for everybody. A peer that calls the model once a
row unless told otherwise is measured as it comes, and with as many rows a call as ours.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import nets
import numpy as np

__all__ = ["Setting", "calls"]

Calls = dict[str, Callable[[], Any]]


class Setting:
    """The model, the picture and its top class, and how many rows a call."""

    def __init__(self, size: int, rows: int, draws: int, device: str = "cpu") -> None:
        import torch

        self.size, self.rows, self.draws, self.device = size, rows, draws, device
        self.model = nets.torch_net("resnet18").to(device).requires_grad_(False)
        self.x = torch.from_numpy(nets.picture(1, "first", size)).to(device)
        with torch.no_grad():
            self.top = int(self.model(self.x).argmax(1))
        self.window = size // 7
        """Occlusion's; it moves by half of it."""

    def grid(self, cells: int) -> np.ndarray:
        """Squares of the picture numbered from 0, (height, width)."""
        line = np.arange(self.size) * cells // self.size
        return line[:, None] * cells + line

    def scores(self, z: Any) -> Any:
        """The explained number of every row, in calls of so many rows."""
        import torch

        with torch.no_grad():
            found = [self.model(part)[:, self.top] for part in z.split(self.rows)]
            return torch.cat(found)

    def bare(self, rows: int) -> Callable[[], Any]:
        """So many rows through the model, made beforehand, and nothing else."""
        import torch

        # Partly covered as in all of them: what pooling costs depends on the numbers.
        index = torch.from_numpy(self.grid(7)).to(self.device)
        kept = torch.rand(self.rows, 49, generator=torch.Generator().manual_seed(0)) < 0.5
        z = self.x * kept.to(self.x)[:, index][:, None]

        def run() -> float:
            with torch.no_grad():
                for i in range(0, rows, self.rows):
                    last = self.model(z[: min(self.rows, rows - i)])
            return float(last.sum())

        return run

    def ours(self, method: str, **options: Any) -> Callable[[], Any]:
        """Our attribution by a method."""
        import whence

        def run() -> Any:
            given = {"target": self.top, "rows": self.rows, **options}
            return whence.explain(self.model, self.x, method, **given).attribution

        return run


def calls(setting: Setting) -> dict[str, tuple[int, Calls]]:
    """{method: (how many rows it takes, {who: function})}."""
    return {
        "occlusion": _occlusion(setting),
        "rise": _rise(setting),
        "kernel-shap, 49 groups": _kernel_shap(setting, 7, setting.draws),
        "kernel-shap, 9 groups, all coalitions": _kernel_shap(setting, 3, 2**9 - 2),
        "lime, 49 groups": _lime(setting),
    }


def _occlusion(s: Setting) -> tuple[int, Calls]:
    stride = s.window // 2
    side = -(-(s.size - s.window) // stride) + 1
    found = {"whence": s.ours("occlusion", window=s.window, stride=stride)}
    try:
        from captum import attr
    except ImportError:
        return side * side, found
    theirs = attr.Occlusion(s.model)

    def captum(rows: int) -> Any:
        return theirs.attribute(
            s.x, sliding_window_shapes=(3, s.window, s.window), strides=(3, stride, stride),
            baselines=0.0, target=s.top, perturbations_per_eval=rows,
        )  # fmt: skip

    found["captum, as it comes"] = lambda: captum(1)
    found["captum, equal rows"] = lambda: captum(s.rows)
    return side * side, found


def _rise(s: Setting) -> tuple[int, Calls]:
    """By hand as the paper's authors do it: masks enlarged one by one and kept, then the calls."""
    import torch
    from skimage.transform import resize

    cells, keep = 8, 0.5
    step = -(-s.size // cells)

    def masks(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        coarse = (rng.random((s.draws, cells, cells)) < keep).astype(np.float32)
        made = np.empty((s.draws, s.size, s.size), np.float32)
        wide = (cells + 1) * step
        for i, one in enumerate(coarse):
            a, b = rng.integers(0, step, 2)
            large = resize(one, (wide, wide), order=1, mode="reflect", anti_aliasing=False)
            made[i] = large[a : a + s.size, b : b + s.size]
        return made

    def by_hand() -> Any:
        mask = torch.from_numpy(masks(0)).to(s.device)[:, None]
        scores = [s.scores(part * s.x) for part in mask.split(s.rows)]
        weighed = torch.cat(scores) @ mask.reshape(s.draws, -1)
        return (weighed / (s.draws * keep)).reshape(1, 1, s.size, s.size).expand_as(s.x)

    ours = {f"whence, seed {i}": s.ours("rise", n=s.draws, seed=i) for i in (0, 1)}
    return s.draws, {"whence": ours["whence, seed 0"], "by hand": by_hand, **ours}


def _masked(s: Setting, grid: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """From rows of presences, (rows, groups), to scores: what shap asks its user for."""
    import torch

    index = torch.from_numpy(grid).to(s.device)

    def run(present: np.ndarray) -> np.ndarray:
        found = []
        for i in range(0, len(present), s.rows):
            kept = torch.from_numpy(present[i : i + s.rows].astype(np.float32)).to(s.device)
            found.append(s.scores(s.x * kept[:, index][:, None]))
        return torch.cat(found).cpu().numpy().astype(np.float64)

    return run


def _kernel_shap(s: Setting, cells: int, draws: int) -> tuple[int, Calls]:
    import torch

    grid = s.grid(cells)
    groups = cells * cells
    found: Calls = {
        f"whence, seed {i}": s.ours("kernel-shap", n=draws, features=grid, seed=i) for i in (0, 1)
    }
    found = {"whence": found["whence, seed 0"], **found}
    mask = torch.from_numpy(grid).to(s.device)[None, None]
    sizes = torch.from_numpy(np.bincount(grid.ravel()) * 3.0).to(s.device)

    def spread(values: Any) -> Any:
        """As ours: a group's value shared out among its elements."""
        return (values.float().to(s.device) / sizes)[mask].expand_as(s.x)

    try:
        from captum import attr

        theirs = attr.KernelShap(s.model)

        def captum(rows: int) -> Any:
            torch.manual_seed(0)
            values = theirs.attribute(
                s.x, baselines=0.0, target=s.top, feature_mask=mask.expand_as(s.x),
                n_samples=draws, perturbations_per_eval=rows, return_input_shape=False,
            )  # fmt: skip
            return spread(values[0])

        found["captum, as it comes"] = lambda: captum(1)
        found["captum, equal rows"] = lambda: captum(s.rows)
    except ImportError:
        pass
    try:
        import shap

        ask = _masked(s, grid)

        def kernel() -> Any:
            np.random.seed(0)
            made = shap.KernelExplainer(ask, np.zeros((1, groups)))
            values = made.shap_values(np.ones((1, groups)), nsamples=draws, l1_reg=0, silent=True)
            return spread(torch.from_numpy(values[0]))

        found["shap"] = kernel
    except ImportError:
        pass
    return draws, found


def _lime(s: Setting) -> tuple[int, Calls]:
    import torch

    grid = s.grid(7)
    mask = torch.from_numpy(grid).to(s.device)[None, None]
    found: Calls = {
        f"whence, seed {i}": s.ours("lime", n=s.draws, features=grid, seed=i) for i in (0, 1)
    }
    found = {"whence": found["whence, seed 0"], **found}
    try:
        from captum import attr
        from captum._utils.models.linear_model import SkLearnRidge
        from captum.attr._core.lime import get_exp_kernel_similarity_function as kernel

        theirs = attr.Lime(
            s.model, interpretable_model=SkLearnRidge(alpha=1.0),
            similarity_func=_by_presence(kernel),
        )  # fmt: skip

        def captum(rows: int) -> Any:
            torch.manual_seed(0)
            return theirs.attribute(
                s.x, baselines=0.0, target=s.top, feature_mask=mask.expand_as(s.x),
                n_samples=s.draws, perturbations_per_eval=rows,
            )  # fmt: skip

        found["captum, as it comes"] = lambda: captum(1)
        found["captum, equal rows"] = lambda: captum(s.rows)
    except ImportError:
        pass
    try:
        from lime.lime_image import LimeImageExplainer

        def ask(images: np.ndarray) -> np.ndarray:
            # In the layout that all others call the model with.
            first = np.ascontiguousarray(np.moveaxis(images, -1, 1), np.float32)
            z = torch.from_numpy(first).to(s.device)
            with torch.no_grad():
                return s.model(z).cpu().numpy()

        def package() -> Any:
            picture = np.moveaxis(s.x[0].cpu().numpy(), 0, -1).astype(np.float64)
            made_by = LimeImageExplainer(verbose=False, random_state=0)
            with redirect_stderr(StringIO()):  # its progress bar
                made = made_by.explain_instance(
                    picture, ask, labels=(s.top,), top_labels=None, hide_color=0,
                    num_samples=s.draws, batch_size=s.rows, segmentation_fn=lambda image: grid,
                )  # fmt: skip
            values = np.zeros(grid.max() + 1)
            for group, weight in made.local_exp[s.top]:
                values[group] = weight
            return torch.from_numpy(values).float().to(s.device)[mask].expand_as(s.x)

        found["lime"] = package
    except ImportError:
        pass
    return s.draws, found


def _by_presence(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """LIME's weights as the authors' package and ours take them: by presences, not by pixels."""
    import torch

    near = kernel("cosine", kernel_width=0.25)

    def weigh(original: Any, varied: Any, present: Any, **given: Any) -> Any:
        return near(torch.ones_like(present).float(), present.float(), present)

    return weigh
