"""Rules with modified weights against their literal twins, and against hand-worked answers."""

from __future__ import annotations

import numpy as np
import pytest

import whence
from reference import matrix as twin

torch = pytest.importorskip("torch")
from whence import rules  # noqa: E402
from whence.errors import OptionError  # noqa: E402


def node_of(module, x):
    """The affine node of a one-layer model, and the tape that it lives on."""
    tape = whence.record(module, x)
    return next(n for n in tape if str(n.kind) in ("conv", "dense", "affine")), tape


def case(seed, kind):
    """(module, matrix, bias per output, one-sample input shape) of an op; inputs of both signs."""
    torch.manual_seed(seed)
    if kind == "dense":
        module = torch.nn.Linear(5, 4).double()
        W, b = twin.dense_matrix(module.weight.detach().numpy(), module.bias.detach().numpy())
        ones = np.ones_like(W)
        return module, W, b, ones, (5,)
    spec = {
        "conv1d": (
            torch.nn.Conv1d,
            (3, 7),
            {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "stride": 2, "padding": 1},
        ),
        "conv2d": (
            torch.nn.Conv2d,
            (2, 5, 6),
            {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": 1, "dilation": 2},
        ),
        "grouped": (
            torch.nn.Conv2d,
            (4, 4, 5),
            {"in_channels": 4, "out_channels": 4, "kernel_size": 2, "groups": 2, "stride": (1, 2)},
        ),
        "depthwise": (
            torch.nn.Conv2d,
            (3, 4, 4),
            {"in_channels": 3, "out_channels": 3, "kernel_size": 3, "groups": 3, "padding": 1}
            | {"bias": False},
        ),
        "conv3d": (
            torch.nn.Conv3d,
            (1, 3, 4, 3),
            {"in_channels": 1, "out_channels": 2, "kernel_size": 2},
        ),
    }[kind]
    module = spec[0](**spec[2]).double()
    options = {k: v for k, v in spec[2].items() if k in ("stride", "padding", "dilation", "groups")}
    weight = module.weight.detach().numpy()
    bias = None if module.bias is None else module.bias.detach().numpy()
    W, b, _ = twin.conv_matrix(weight, spec[1], bias, **options)
    ones, _, _ = twin.conv_matrix(np.ones_like(weight), spec[1], None, **options)
    return module, W, b, ones, spec[1]


KINDS = ["dense", "conv1d", "conv2d", "grouped", "depthwise", "conv3d"]


def compare(rule, literal, kind, seed=0, x=None):
    module, W, b, ones, shape = case(seed, kind)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, *shape)) if x is None else x(rng, (2, *shape))
    node, _tape = node_of(module, torch.tensor(x))
    out = node.output.detach().numpy()
    R = rng.normal(size=out.shape)
    found = rule(node, torch.tensor(R))
    parts = found.parts if hasattr(found, "parts") else found
    got = parts[0].detach().numpy().reshape(2, -1)
    for s in range(2):
        want = literal(W, b, x[s].ravel(), R[s].ravel(), ones)
        np.testing.assert_allclose(got[s], want, rtol=1e-6, atol=1e-9)
    return node, torch.tensor(R), found


@pytest.mark.parametrize("mode", ["absorb", "ignore", "distribute"])
@pytest.mark.parametrize("kind", KINDS)
def test_z_plus(kind, mode):
    compare(rules.ZPlus(bias=mode), lambda W, b, x, R, o: twin.z_plus(W, b, x, R, mode), kind)


@pytest.mark.parametrize("mode", ["absorb", "ignore"])
@pytest.mark.parametrize("empty", ["conserve", "strict"])
@pytest.mark.parametrize("kind", KINDS)
def test_alpha_beta(kind, empty, mode):
    compare(
        rules.AlphaBeta(2, 1, empty=empty, bias=mode),
        lambda W, b, x, R, o: twin.alpha_beta(W, b, x, R, 2, 1, empty, mode), kind,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["absorb", "ignore", "distribute"])
@pytest.mark.parametrize("kind", KINDS)
def test_gamma(kind, mode):
    compare(
        rules.Gamma(0.4, bias=mode), lambda W, b, x, R, o: twin.gamma(W, b, x, R, 0.4, mode), kind
    )


@pytest.mark.parametrize("kind", KINDS)
def test_w_square_and_flat(kind):
    compare(rules.WSquare(), lambda W, b, x, R, o: twin.w_square(W, b, R), kind)
    compare(rules.WSquare(bias=True), lambda W, b, x, R, o: twin.w_square(W, b, R, True), kind)
    compare(rules.Flat(), lambda W, b, x, R, o: twin.flat(o, R), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_box(kind):
    def literal(W, b, x, R, o):
        return twin.box(W, x, R, np.full(len(x), -1.5), np.full(len(x), 2.0))

    compare(rules.Box(-1.5, 2.0), literal, kind)


def test_box_takes_bounds_per_channel_and_as_arrays():
    module, W, _, _, shape = case(3, "conv2d")
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, size=(1, *shape))
    low, high = np.array([-1.0, -2.0]), np.array([1.0, 3.0])
    whole = [np.broadcast_to(v[:, None, None], shape).ravel() for v in (low, high)]
    node, _tape = node_of(module, torch.tensor(x))
    R = torch.tensor(rng.normal(size=tuple(node.output.shape)))
    want = twin.box(W, x.ravel(), R.numpy().ravel(), *whole)
    for bounds in ((low, high), tuple(v.reshape(shape) for v in whole)):
        got = rules.Box(*bounds)(node, R).parts[0]
        np.testing.assert_allclose(got.detach().numpy().ravel(), want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "rule",
    [
        rules.ZPlus(),
        rules.AlphaBeta(2, 1),
        rules.AlphaBeta(2, 1, empty="strict"),
        rules.Gamma(),
        rules.WSquare(),
        rules.Flat(),
        rules.Box(-3, 3),
        rules.ZPlus(bias="distribute"),
        rules.Gamma(bias="ignore"),
        rules.Epsilon(),
    ],
    ids=repr,
)
def test_what_goes_out_plus_what_is_absorbed_is_what_came_in(rule):
    module, *_, shape = case(5, "conv2d")
    node, _tape = node_of(module, torch.randn(3, *shape, dtype=torch.double))
    R = torch.randn_like(node.output)
    split = rule(node, R)
    books = split.absorbed(lambda a, b=None: (a if b is None else a * b).flatten(1).sum(1))
    left = R.flatten(1).sum(1) - split.parts[0].flatten(1).sum(1) - sum(books.values())
    assert left.abs().max() < 1e-9 * R.abs().sum()


def test_by_hand_two_inputs():
    # z = 2*1 + (-1)*1 = 1; products: +2, -1.
    layer = torch.nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, -1.0]]))
    node, _tape = node_of(layer, torch.ones(1, 2, dtype=torch.double))
    one = torch.ones(1, 1, dtype=torch.double)

    def parts(rule):
        return rule(node, one).parts[0].detach().numpy()[0]

    np.testing.assert_allclose(parts(rules.Epsilon(0.0)), [2, -1])
    np.testing.assert_allclose(parts(rules.ZPlus()), [1, 0], atol=1e-5)
    np.testing.assert_allclose(parts(rules.AlphaBeta(2, 1)), [2, -1], atol=1e-5)
    np.testing.assert_allclose(parts(rules.Gamma(1.0)), [4 / 3, -1 / 3], atol=1e-5)  # (4, -1) / 3
    np.testing.assert_allclose(parts(rules.WSquare()), [0.8, 0.2], atol=1e-5)
    np.testing.assert_allclose(parts(rules.Flat()), [0.5, 0.5], atol=1e-5)
    # z^B with bounds 0 and 2: (2*1 - 2*0, -1*1 - -1*2) = (2, 1) -> 2/3, 1/3.
    np.testing.assert_allclose(parts(rules.Box(0, 2)), [2 / 3, 1 / 3], atol=1e-5)


def test_alpha_beta_where_nothing_pushes_down():
    layer = torch.nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 1.0]]))
    node, _tape = node_of(layer, torch.ones(1, 2, dtype=torch.double))
    one = torch.ones(1, 1, dtype=torch.double)
    conserved = rules.AlphaBeta(2, 1)(node, one).parts[0].detach().numpy()[0]
    strict = rules.AlphaBeta(2, 1, empty="strict")(node, one).parts[0].detach().numpy()[0]
    np.testing.assert_allclose(conserved, [0.75, 0.25], atol=1e-5)
    np.testing.assert_allclose(strict, [1.5, 0.5], atol=1e-5)  # doubled, and the ledger says so


def test_rules_after_a_rectifier_need_one_run_and_agree_with_two():
    """The short way for operands that are not negative gives the same numbers."""
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv2d(2, 3, 3, padding=1)).double()
    x = torch.randn(2, 2, 5, 5, dtype=torch.double)
    tape = whence.record(net, x)
    node = next(n for n in tape if str(n.kind) == "conv")
    plain, _keep = node_of(net[1], torch.relu(x))
    R = torch.randn_like(node.output)
    for rule in (rules.ZPlus(), rules.Gamma(), rules.AlphaBeta(2, 1)):
        a, b = rule(node, R).parts[0], rule(plain, R).parts[0]
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mode", ["absorb", "ignore", "distribute"])
@pytest.mark.parametrize("bias", [True, False])
def test_gamma_between_rectifiers_needs_one_run_and_is_the_same(mode, bias, monkeypatch):
    """Nothing arrives at z <= 0 there; the general way, with its books, gives the same numbers."""
    torch.manual_seed(3)
    module = torch.nn.Conv2d(2, 3, 3, padding=1, bias=bias).double()
    x, rule = torch.randn(2, 2, 5, 5).double(), rules.Gamma(0.3, bias=mode)
    tape = whence.record(lambda a: module(torch.relu(a)), x)
    node, pulls = tape.nodes[-1], []
    relevance, spread = torch.relu(node.output), bias and mode == "distribute"
    monkeypatch.setattr(type(node._pull), "__call__", _counting(type(node._pull), pulls))
    found = rule(node, relevance)
    assert len(pulls) == 1 + spread
    monkeypatch.setattr(type(node.xp), "known_zero", lambda xp, array: False)
    general = rule(node, relevance)
    assert len(pulls) == 1 + spread + 2 + spread
    np.testing.assert_allclose(found.parts[0], general.parts[0], rtol=1e-9, atol=1e-12)

    def total(a, b=None):
        return (a if b is None else a * b).sum((1, 2, 3))

    one, other = found.absorbed(total), general.absorbed(total)
    assert set(one) == set(other)
    for reason in one:
        np.testing.assert_allclose(one[reason], other[reason], rtol=1e-6, atol=1e-9)
    tape.free()


def _counting(pull, calls):
    original = pull.__call__

    def counted(self, cotangent):
        calls.append(tuple(cotangent.shape))
        return original(self, cotangent)

    return counted


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: rules.AlphaBeta(2, 2),
            "alpha - beta = 1 with beta >= 0, so that relevance is conserved; got alpha=2, beta=2",
        ),
        (lambda: rules.AlphaBeta(0, -1), "beta >= 0"),
        (lambda: rules.Gamma(-0.1), "Gamma needs gamma >= 0; got -0.1"),
        (lambda: rules.Epsilon(-1), "Epsilon needs eps >= 0"),
        (lambda: rules.Box(None, 1), "Box needs the bounds of the input, low and high"),
        (lambda: rules.Box(2, 1), "Box needs low <= high"),
        (
            lambda: rules.ZPlus(bias="drop"),
            "ZPlus needs bias to be one of 'absorb', 'ignore', 'distribute'; got 'drop'",
        ),
        (lambda: rules.AlphaBeta(empty="x"), "empty to be 'conserve' or 'strict'"),
    ],
)  # fmt: skip
def test_wrong_options(make, text):
    with pytest.raises(OptionError) as error:
        make()
    assert text in str(error.value)
