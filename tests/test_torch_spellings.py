"""Spellings that hide an operation from tools that look at modules: here each is recorded."""

# ruff: noqa: E501 - one spelling a line reads as a table.

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from support_tape import exact, lively, record
from whence.ops import Op

Tensor = torch.Tensor
D = torch.float64
W = torch.linspace(-1.0, 1.2, 36, dtype=D).reshape(6, 6)

ELEMENTWISE = (
    "relu relu6 leaky_relu elu selu celu gelu silu mish softplus softsign tanhshrink softshrink "
    "hardshrink hardtanh hardsigmoid hardswish logsigmoid sigmoid tanh"
).split()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activations_as_function_method_and_module(name):
    def function(x):
        return getattr(F, name)(x @ W) * x

    tape = exact(function, torch.randn(3, 6, dtype=D))
    assert tape.nodes[2].kind is (Op.RELU if "relu" in name else Op.ACTIVATION)
    module = next(
        m for m in vars(nn).values() if getattr(m, "__name__", "").lower() == name.replace("_", "")
    )
    named = record(lambda x: module()(x @ W) * x, torch.randn(3, 6, dtype=D))
    assert [n.kind for n in named] == [n.kind for n in tape]


def test_one_name_for_every_spelling_of_relu():
    module = nn.ReLU()
    spellings = [
        F.relu, torch.relu, Tensor.relu, module, torch.ops.aten.relu.default, torch.ops.aten.relu,
        nn.ReLU(inplace=True), lambda x: x.clone().relu_(), lambda x: x.clamp(min=0),
        lambda x: x.clamp_min(0), lambda x: torch.maximum(x, torch.zeros(())), lambda x: F.threshold(x, 0, 0),
        lambda x: torch.clip(x, 0), lambda x: torch.max(x, torch.zeros_like(x)),
    ]  # fmt: skip
    for spelling in spellings:
        tape = exact(lambda x, f=spelling: f(x * 1.5), torch.randn(3, 6, dtype=D))
        assert [n.kind for n in tape][-1] is Op.RELU, str(tape)


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "one activation, three times": (lambda f: lambda x: f(f(x @ W) @ W) + f(x))(nn.ReLU()),
    "softmax": lambda x: F.softmax(x, -1) + torch.log_softmax(x, 1) * F.softmin(x, 1),
    "glu and prelu": lambda x: F.glu(x @ W) + F.prelu(x, torch.tensor([0.2], dtype=D))[:, :3],
    "cat": lambda x: torch.cat([x, x.sin(), torch.ones_like(x)], 1) @ torch.ones(18, 2, dtype=D),
    "stack": lambda x: torch.stack([x, x @ W, x], 1).sin(),
    "hstack and vstack": lambda x: torch.vstack([torch.hstack([x, x]), torch.hstack([x, x.exp()])]),
    "chunk": lambda x: (lambda a, b: a * b.sin())(*x.chunk(2, 1)),
    "split": lambda x: (lambda a, b: a.sum(1) * b.sum(1))(*torch.split(x, [2, 4], 1)),
    "unbind": lambda x: sum(row.sin() * i for i, row in enumerate(x.unbind(1), 1)),
    "tensor_split": lambda x: torch.tensor_split(x, 3, 1)[1].sin(),
    "where": lambda x: torch.where(x > 0, x * 2, x.sin()) + torch.where(W[:1] > 0, x, 0.0),
    "einsum": lambda x: torch.einsum("bi,ij,bj->b", x, W, x) + torch.einsum("bi->b", x).sin(),
    "einsum of a pair": lambda x: torch.einsum("bi,cj->bcij", x, x @ W),
    "topk": lambda x: torch.topk(x, 2, 1).values * x.sort(1, descending=True)[0][:, 1:3],
    "max with places": lambda x: (lambda m: m.values * m.indices)(x.max(1)) + x.min(1)[0],
    "extremes": lambda x: x.amax(1) * x.amin(0).sum() + x.max() + x.median() + x.kthvalue(2, 1).values,
    "max of two": lambda x: torch.maximum(x, x @ W) + torch.minimum(x, W[:1]),
    "logsumexp": lambda x: torch.logsumexp(x, 1) * x.norm(dim=1) + x.std(1) + x.var(1, unbiased=False),
    "norms": lambda x: F.layer_norm(x, (6,)) + F.normalize(x, dim=1) + F.rms_norm(x, (6,)),
    "group norm": lambda x: F.group_norm(x, 2) + F.instance_norm(x[None])[0],
    "cosine": lambda x: F.cosine_similarity(x, x @ W, dim=1),
    "distances": lambda x: torch.cdist(x, x @ W) + F.pairwise_distance(x, x.sin())[:, None],
    "products": lambda x: x.prod(1) + (x @ W).cumsum(1).cumprod(1).sum(1) + torch.dot(x[0], x[1]),
    "matmul forms": lambda x: torch.mm(x, W) + torch.addmm(x, x, W) + torch.matmul(W, x.mT).mT,
    "tracked bias": lambda x: F.linear(W, W, x[0]) + torch.addmm(x[0], W, W, beta=2, alpha=3),
    "bmm and baddbmm": lambda x: torch.baddbmm(x[None], x[None], W[None], alpha=2) + torch.bmm(x[None], W[None]),
    "outer": lambda x: torch.outer(x[0], x[1]) + torch.tensordot(x, x, ([0], [0])),
    "bilinear": lambda x: F.bilinear(x, x @ W, W.reshape(1, 6, 6)),
    "scalars": lambda x: 2 - x / 3 + 1 / (x.abs() + 1) - (-x) ** 2 + 2**x + x % 0.7 + abs(x),
    "arithmetic": lambda x: torch.sub(x, x.sin(), alpha=2) + torch.rsub(x, 3, alpha=2) + torch.true_divide(x, 3),
    "named operands": lambda x: torch.add(input=x, other=x.sin(), alpha=2) * torch.mul(input=x, other=2.0),
    "a constant array": lambda x: W[0] / (2 + x) + (W[:1] - x) * W[1] + W[2] * x - x / W[3],
    "addcmul": lambda x: torch.addcmul(x, x, W[:1], value=0.5) + torch.addcdiv(x, x, 2 + x * x),
    "lerp": lambda x: torch.lerp(x, x.sin(), 0.3) + torch.lerp(x, W[:1], x.cos()),
    "broadcast": lambda x: x[:, :1] * x + x[:1] - x.sum() + x.mean(0, keepdim=True) / (1 + x[:, :1] ** 2),
    "shapes": lambda x: x.reshape(2, -1).flatten().view(3, 6).t().contiguous().unsqueeze(1).squeeze().mT.sin(),
    "moves": lambda x: x.roll(1, 0).flip(1).tile(2).repeat(1, 2)[:, ::3].movedim(0, 1).swapaxes(0, 1).sin(),
    "gathers": lambda x: x.gather(1, torch.tensor([[0, 5], [1, 1], [2, 3]])) * x.index_select(1, torch.tensor([0, 0])),
    "index arrays": lambda x: x[torch.tensor([0, 2]), torch.tensor([1, 1])] * x[..., None, 2:4].sum(),
    "masks": lambda x: x[x > 0].sum() * x.masked_select(W[:3] > 0).sum() + x.masked_fill(x > 1, 0.0),
    "triangles": lambda x: (x.mT @ x).tril().triu(-1) + torch.diag(x[0]) + torch.diag_embed(x[1]),
    "expand": lambda x: x[:1].expand(3, 6).sin() * x.expand_as(x) + torch.broadcast_tensors(x, W[:1])[0],
    "pads": lambda x: F.pad(x, (1, 2)).sin()[:, :6] + F.pad(x[None], (2, 2), "reflect")[0, :, 1:7]
    + F.pad(x[None], (1, 0), "circular")[0, :, :6] + F.pad(x[None], (1, 0), "replicate")[0, :, :6],
    "meshgrid": lambda x: (lambda a, b: a * b.sin())(*torch.meshgrid(x[0], x[1], indexing="ij")),
    "scatter": lambda x: torch.zeros(3, 6, dtype=D).scatter(1, torch.tensor([[1, 0]] * 3), x[:, :2]) * x,
    "scatter add": lambda x: torch.zeros(3, 6, dtype=D).index_add(0, torch.tensor([1, 1, 0]), x) * x,
    "casts": lambda x: x.float().sin().double() * x.to(torch.float32).to(x) + x.type(torch.float64),
    "dropout": lambda x: F.dropout(x, 0.5, training=False).sin() + nn.Identity()(x) * x.clone(),
    "noise": lambda x: F.dropout(x @ W, 0.5, training=True) * x + torch.rand_like(x) * x.sin(),
    "detach": lambda x: x * x.detach() + (x.sin() - x.data),
    "straight-through rounding": lambda x: (x + (x.round() - x).detach()) * W[0],
    "no_grad, partly": torch.no_grad()(lambda x: x.sin()) and (lambda x: x * torch.no_grad()(torch.sin)(x)),
    "zero-dim": lambda x: x.sum().sin() * x[0, 0],
    "fourier": lambda x: torch.fft.rfft(x).abs() + torch.fft.fft2(x).real[:, :4],
    "complex": lambda x: (torch.complex(x, x.sin()) * (1 + 2j) + 1j).angle() + torch.view_as_real(torch.complex(x, x) / 2j)[..., 1],
    "inverse": lambda x: torch.linalg.inv(x[:, :3] + 3 * torch.eye(3, dtype=D)) @ torch.linalg.svdvals(x),
    "resize": lambda x: F.interpolate(x[None], scale_factor=2, mode="linear")[0] + F.interpolate(x[None], 12)[0],
    "grid sample": lambda x: F.grid_sample(x[None, None], x[:2].reshape(1, 2, 3, 2).tanh(), align_corners=False),
    "hypernetwork": lambda x: F.linear(x, torch.tanh(x.mT @ x), x[0]) + F.linear(W, x.sin())[:3, :1],
    "a kernel from the input": lambda x: F.conv1d(x[None], (x @ W[:, :3]).reshape(1, 3, 3)) * W[0, :4],
    "control flow on shapes": lambda x: x.sin() if x.shape[0] == 3 and len(x) < x.numel() else x.cos(),
    "control flow on numbers": lambda x: x * 2 if x.sum() > -1e9 and bool((x > -99).all()) else x * 3,
    "python numbers": lambda x: x * x.max().item() + x[0, 0].tolist() * x,
    "straight numpy": lambda x: x * torch.from_numpy(x.detach().numpy() * 2),
    "unfold": lambda x: x.unfold(1, 3, 1).sin().sum(-1) + F.unfold(x[None, None], 2)[0, :3, :4],
    "map over a list": lambda x: torch.cat(list(map(torch.sin, x.split(1)))) * torch.ones_like(x).mul(3),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_spelling_is_exact(name):
    exact(CASES[name], torch.randn(3, 6, dtype=D))


KNOWN = set(CASES) - {
    # Rightly opaque: whole spectra, factorisations, complex numbers, samplers of two inputs.
    "fourier", "complex", "inverse", "grid sample", "products", "distances", "logsumexp",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_spelling_has_a_known_kind(name):
    tape = record(CASES[name], torch.randn(3, 6, dtype=D))
    assert [n.op for n in tape if n.kind is Op.OPAQUE] == []


CONVOLUTIONS = {
    "1d": (nn.Conv1d, {}),
    "2d": (nn.Conv2d, {"stride": 2, "padding": 1}),
    "3d": (nn.Conv3d, {"bias": False}),
    "grouped": (nn.Conv2d, {"groups": 2}),
    "depthwise, dilated": (nn.Conv2d, {"groups": 4, "dilation": 2}),
    "same": (nn.Conv2d, {"padding": "same", "dilation": 2}),
    "valid": (nn.Conv1d, {"padding": "valid"}),
    "reflect": (nn.Conv2d, {"padding": 2, "padding_mode": "reflect"}),
    "circular": (nn.Conv1d, {"padding": 1, "padding_mode": "circular"}),
    "replicate": (nn.Conv3d, {"padding": 1, "padding_mode": "replicate"}),
    "zeros": (nn.Conv2d, {"padding": (0, 1), "padding_mode": "zeros"}),
    "transposed 1d": (nn.ConvTranspose1d, {"stride": 2}),
    "transposed 2d": (
        nn.ConvTranspose2d,
        {"stride": 2, "output_padding": 1, "groups": 2, "padding": 1},
    ),
    "transposed 3d": (nn.ConvTranspose3d, {"dilation": 2, "bias": False}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    kind, options = CONVOLUTIONS[name]
    conv = lively(kind(4, 4, 3, **options).to(D))
    dims = len(conv.kernel_size)
    tape = exact(conv, torch.randn(2, 4, *(6,) * dims, dtype=D))
    (node,) = [n for n in tape if n.kind is Op.CONV]
    assert node.attrs["dims"] == dims
    assert node.attrs["transposed"] == ("transposed" in name)
    exact(conv, torch.randn(4, *(6,) * dims, dtype=D))  # without a batch


POOLS = {
    "max": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max with places": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "module with places": lambda x: nn.MaxPool2d(2, return_indices=True)(x)[0],
    "mean": lambda x: F.avg_pool2d(x, 2, count_include_pad=False, padding=1, ceil_mode=True),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, None)) + F.adaptive_max_pool2d(x, (3, 6)),
    "power": lambda x: F.lp_pool2d(x.abs() + 1, 2.0, 2),
    "1d and 3d": lambda x: F.max_pool1d(x[0], 2).sum() + F.avg_pool3d(x, 2),
    "global": lambda x: x.mean((2, 3)) + x.sum((-1, -2)) / 7 + x.flatten(2).mean(-1),
    "shuffles": lambda x: F.pixel_shuffle(x, 2).sin() + F.interpolate(F.channel_shuffle(x, 2), (12, 12))[:, :1],
    "bilinear": lambda x: F.interpolate(x, (5, 9), mode="bilinear") + F.interpolate(x, (5, 9), mode="bicubic"),
    "batch norm": lambda x: F.batch_norm(x, torch.ones(4, dtype=D), torch.ones(4, dtype=D) * 2, eps=0.1),
    "batch statistics": lambda x: F.batch_norm(x, None, None, training=True),
    "response norm": lambda x: F.local_response_norm(x, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", POOLS)
def test_pools_and_norms_of_pictures(name):
    tape = exact(POOLS[name], torch.randn(2, 4, 6, 6, dtype=D))
    assert [n.op for n in tape if n.kind is Op.OPAQUE] == []


def test_arrays_that_do_not_lie_in_order():
    model = lively(
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
        ).to(D)
    )
    x = torch.randn(2, 3, 6, 6, dtype=D)
    exact(model, x.transpose(2, 3))
    exact(model, torch.randn(2, 3, 12, 12, dtype=D)[:, :, ::2, 1::2])
    exact(model, x[:1].expand(2, 3, 6, 6))
    exact(model, x.to(memory_format=torch.channels_last))
    exact(model.to(memory_format=torch.channels_last), x)
