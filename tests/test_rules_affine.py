"""Epsilon on everything that is linear, against explicit matrices and the paper's own line."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whence
from reference import affine as twin
from support_nets import applied, close, nodes_of
from whence.errors import OptionError
from whence.rules.affine import Epsilon

EPS = 0.05  # large, so that its place in the formula shows


def check(model, x, kind, matrix, bias, eps=EPS):
    """A one-op model against the explicit matrix: relevance and books, sample by sample."""
    with nodes_of(model, x, kind) as nodes, torch.no_grad():
        (node,) = nodes
        relevance = torch.randn(node.output.shape, dtype=torch.float64)
        (got,), books = applied(Epsilon(eps), node, relevance, len(x))
    kept = []
    for i in range(len(x)):
        flat, r = x[i].numpy().reshape(-1), relevance[i].numpy().reshape(-1)
        close(got[i].reshape(-1), twin.epsilon(flat, matrix, bias, r, eps), 1e-10)
        kept.append(twin.absorbed(flat, matrix, bias, r, eps))
        total = got[i].sum() + sum(b[i] for b in books.values())
        assert total == pytest.approx(r.sum(), abs=1e-9)
    close(books["epsilon"], [k["epsilon"] for k in kept], 1e-9)
    if bias.any():
        close(books["bias"], [k["bias"] for k in kept], 1e-9)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("biased", [True, False])
def test_dense(batch, biased):
    layer = nn.Linear(5, 4, bias=biased).double()
    x = torch.randn(batch, 5, dtype=torch.float64)
    x[0, 2] = 0.0
    bias = layer.bias.detach().numpy() if biased else np.zeros(4)
    check(layer, x, "dense", layer.weight.detach().numpy(), bias)


CONVOLUTIONS = {
    "1-d": (1, {"kernel_size": 3}, (2, 7)),
    "1-d strided": (1, {"kernel_size": 4, "stride": 3, "padding": 2}, (2, 9)),
    "1-d dilated": (1, {"kernel_size": 3, "dilation": 2, "padding": 1}, (2, 8)),
    "2-d": (2, {"kernel_size": 3, "padding": 1}, (2, 5, 4)),
    "2-d odd": (2, {"kernel_size": (2, 3), "stride": (2, 1), "padding": (1, 0)}, (2, 5, 6)),
    "2-d grouped": (
        2,
        {"kernel_size": 3, "groups": 2, "dilation": (1, 2), "padding": 2},
        (4, 4, 5),
    ),
    "2-d depthwise": (2, {"kernel_size": 3, "groups": 4, "stride": 2}, (4, 5, 5)),
    "3-d": (3, {"kernel_size": 2, "stride": (1, 2, 1), "padding": (0, 1, 0)}, (2, 3, 3, 4)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name):
    dims, options, shape = CONVOLUTIONS[name]
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](shape[0], 4, **options).double()
    x = torch.randn(2, *shape, dtype=torch.float64)
    matrix, rows = twin.convolution(
        shape, layer.weight.detach().numpy(), stride=layer.stride, padding=layer.padding,
        dilation=layer.dilation, groups=layer.groups,
    )  # fmt: skip
    bias = np.repeat(layer.bias.detach().numpy(), int(np.prod(rows[1:])))
    check(layer, x, "conv", matrix, bias)


TRANSPOSED = {
    "1-d": (1, {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}, (3, 4)),
    "2-d grouped": (
        2,
        {"kernel_size": (3, 2), "stride": 2, "groups": 2, "dilation": (1, 2)},
        (4, 3, 2),
    ),
    "3-d": (3, {"kernel_size": 2, "stride": (1, 2, 1), "padding": (0, 1, 0)}, (2, 2, 3, 2)),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolution(name):
    dims, options, shape = TRANSPOSED[name]
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    layer = kinds[dims - 1](shape[0], 4, **options).double()
    x = torch.randn(2, *shape, dtype=torch.float64)
    matrix, rows = twin.transposed(
        shape, layer.weight.detach().numpy(), stride=layer.stride, padding=layer.padding,
        dilation=layer.dilation, output_padding=layer.output_padding, groups=layer.groups,
    )  # fmt: skip
    bias = np.repeat(layer.bias.detach().numpy(), int(np.prod(rows[1:])))
    check(layer, x, "conv", matrix, bias)


def test_average_pooling_counts_its_padding():
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    matrix, _ = twin.pooling(x.shape[1:], (3, 2), (2, 2), (1, 1))
    check(lambda t: F.avg_pool2d(t, (3, 2), 2, 1), x, "avgpool", matrix, np.zeros(len(matrix)))


@pytest.mark.parametrize("name", ["mean", "sum", "adaptive"])
def test_means_and_sums(name):
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    weight = {"mean": 1 / 4, "sum": 1.0, "adaptive": 1 / 4}[name]
    matrix = np.kron(np.eye(3), np.full((1, 4), weight))
    ops = {
        "mean": lambda t: t.mean(-1),
        "sum": lambda t: t.sum(2),
        "adaptive": lambda t: F.adaptive_avg_pool1d(t, 1).flatten(1),
    }
    check(ops[name], x, "avgpool", matrix, np.zeros(3))


def test_scale_and_shift_by_constants():
    scale, shift = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    x = torch.randn(2, 3, dtype=torch.float64)
    with nodes_of(lambda t: t * scale + shift, x, "affine") as nodes, torch.no_grad():
        relevance = torch.randn(2, 3, dtype=torch.float64)
        (outer,), books = applied(Epsilon(EPS), nodes[1], relevance, 2)
        (inner,), _ = applied(Epsilon(EPS), nodes[0], relevance, 2)
    for i in range(2):
        z, r = (x[i] * scale).numpy(), relevance[i].numpy()
        close(outer[i], twin.epsilon(z, np.eye(3), shift.numpy(), r, EPS), 1e-10)
        close(inner[i], twin.epsilon(x[i].numpy(), np.diag(scale), np.zeros(3), r, EPS), 1e-10)
        kept = twin.absorbed(z, np.eye(3), shift.numpy(), r, EPS)
        assert books["bias"][i] == pytest.approx(kept["bias"])
        assert books["epsilon"][i] == pytest.approx(kept["epsilon"])


SUMS = {
    "two": (lambda a, b: a + b, (1, 1), (2, 3, 4)),
    "difference": (lambda a, b: a - b, (1, -1), (2, 3, 4)),
    "weighted": (lambda a, b: torch.add(a, b, alpha=0.5), (1, 0.5), (2, 3, 4)),
    "broadcast": (lambda a, b: a + b, (1, 1), (2, 1, 4)),
    "broadcast from fewer axes": (lambda a, b: a + b[:, 0], (1, 1), (3, 1, 4)),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_share_in_proportion(name):
    op, signs, shape = SUMS[name]
    a = torch.randn(2, 3, 4, dtype=torch.float64)
    b = torch.randn(shape, dtype=torch.float64)
    with nodes_of(op, (a, b), "add") as nodes, torch.no_grad():
        (node,) = nodes
        relevance = torch.randn(2, 3, 4, dtype=torch.float64)
        got, books = applied(Epsilon(EPS), node, relevance, 2)
        parts = [v.array.detach().numpy() for v in node.into]
    theirs = twin.added(parts, signs, relevance.numpy(), EPS)
    for ours, other in zip(got, theirs, strict=True):
        close(ours, other, 1e-10)
    whole = sum(g.sum() for g in got) + books["epsilon"].sum()
    assert whole == pytest.approx(relevance.sum().item())


FOLDED = {
    "conv": (lambda: nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), (2, 5, 5)),
    "conv without bias": (lambda: nn.Conv1d(2, 4, 3, bias=False), nn.BatchNorm1d(4), (2, 5)),
    "dense": (lambda: nn.Linear(3, 4), nn.BatchNorm1d(4), (3,)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 4, 2, groups=2), nn.BatchNorm2d(4), (2, 3, 3)),
}


@pytest.mark.parametrize("name", FOLDED)
def test_batch_norm_counts_as_part_of_the_op_before_it(name):
    """The relevance and the books of the model whose weights were folded by hand."""
    make, norm, shape = FOLDED[name]
    layer, x = make().double(), torch.randn(2, *shape, dtype=torch.float64)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 2)
    norm = norm.double().eval()
    folded = copy.deepcopy(layer)
    with torch.no_grad():
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        if name == "transposed":  # (in, out / groups, ...): the first half makes channels 0 and 1
            for i in range(2):
                folded.weight[i] *= scale[2 * i : 2 * i + 2].reshape(-1, 1, 1)
        else:
            folded.weight *= scale.reshape(-1, *[1] * (folded.weight.dim() - 1))
        bias = 0 if layer.bias is None else layer.bias
        folded.bias = nn.Parameter((bias - norm.running_mean) * scale + norm.bias)
    found = [
        whence.explain(
            nn.Sequential(*layers, nn.LeakyReLU(0.5), nn.Flatten()),
            x,
            "lrp",
            target=3,
            composite="epsilon",
            eps=EPS,
        )
        for layers in ((layer, norm), (folded,))
    ]
    close(found[0].to_numpy(), found[1].to_numpy(), 1e-6)
    ours, theirs = (e.ledger.absorbed() for e in found)
    np.testing.assert_allclose(ours["bias"], theirs["bias"], rtol=1e-6)
    assert len(found[0].ledger) == len(found[1].ledger)


def test_zero_output_moves_up_and_stays_finite():
    # z = 1 * 1 + 1 * (-1) = 0, so s(z) = +eps: each takes x_i w_i / eps, and the two cancel.
    layer = nn.Linear(2, 1, bias=False).double()
    nn.init.ones_(layer.weight)
    x = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    with nodes_of(layer, x, "dense") as nodes, torch.no_grad():
        (got,), books = applied(Epsilon(0.1), nodes[0], torch.ones(1, 1).double(), 1)
    np.testing.assert_allclose(got, [[10.0, -10.0]])
    np.testing.assert_allclose(books["epsilon"], [1.0])


def test_half_precision_scales_the_stabiliser():
    """In half precision 1e-6 is nothing beside a large z: eps counts in units of its spread."""
    # z = (1/16, 200) has the root mean square 141.42, so s(z_1) = 0.0625 + 0.14142 and the share
    # that reaches x_1 is 0.0625 / 0.20392 = 0.30649; in single precision it is all of it.
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0625, 0.0], [0.0, 200.0]]))
    for kind, share in ((torch.float16, 0.30649), (torch.float32, 1.0)):
        x, relevance = torch.ones(1, 2, dtype=kind), torch.tensor([[1.0, 0.0]], dtype=kind)
        with nodes_of(layer.to(kind), x, "dense") as nodes, torch.no_grad():
            (got,), books = applied(Epsilon(), nodes[0], relevance, 1)
        np.testing.assert_allclose(got, [[share, 0.0]], rtol=2e-3)
        np.testing.assert_allclose(books["epsilon"], [1 - share], atol=2e-3)


def test_two_features_by_hand():
    # f = 2 a - b + 1 at (3, 4): z = 6 - 4 + 1 = 3. With R = z = 3 and eps = 0:
    # R_a = 6 / 3 * 3 = 6, R_b = -4 / 3 * 3 = -4, and the bias keeps 1.
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, -1.0]]))
        layer.bias.fill_(1.0)
    e = whence.explain(layer, torch.tensor([[3.0, 4.0]]), whence.LRP("epsilon", eps=0))
    np.testing.assert_allclose(e.attribution.numpy(), [[6.0, -4.0]], rtol=1e-6)
    np.testing.assert_allclose(e.ledger.absorbed()["bias"], [1.0], rtol=1e-6)
    # eps = 1 shrinks each share by 3 / (3 + 1); eps keeps a quarter of R = 3.
    e = whence.explain(layer, torch.tensor([[3.0, 4.0]]), "lrp", eps=1.0)
    np.testing.assert_allclose(e.attribution.numpy(), [[4.5, -3.0]], rtol=1e-6)
    np.testing.assert_allclose(e.ledger.absorbed()["epsilon"], [0.75], rtol=1e-6)
    np.testing.assert_allclose(e.ledger.absorbed()["bias"], [0.75], rtol=1e-6)


def test_convolution_by_hand():
    # x = (1, 2, -1), kernel (1, -1), no bias: z = (1 - 2, 2 + 1) = (-1, 3). The output is z_2 = 3,
    # so R_2 = 2 / 3 * 3 = 2, R_3 = 1 / 3 * 3 = 1 and x_1, which it does not see, gets 0.
    layer = nn.Conv1d(1, 1, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0, -1.0]]]))
    net = nn.Sequential(layer, nn.Flatten())
    x = torch.tensor([[[1.0, 2.0, -1.0]]])
    e = whence.explain(net, x, whence.LRP("epsilon", eps=0))
    assert e.target.tolist() == [1]
    np.testing.assert_allclose(e.attribution.numpy(), [[[0.0, 2.0, 1.0]]], rtol=1e-6)


@pytest.mark.parametrize("eps", [-1e-9, float("nan")])
def test_a_stabiliser_below_zero_is_refused(eps):
    with pytest.raises(OptionError, match=r"Epsilon needs eps >= 0, the stabiliser; got"):
        Epsilon(eps)
