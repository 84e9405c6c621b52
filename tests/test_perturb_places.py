"""What of a call can be varied: inputs, a layer's output, the embeddings of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support_averaged import job
from whence.errors import InputError, TargetError
from whence.perturb.engine import Engine, Plan

torch = pytest.importorskip("torch")
nn = torch.nn

X = torch.linspace(-2, 2, 20).reshape(5, 4)


def small() -> Any:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3))


def test_a_layers_output_can_be_varied() -> None:
    net = small()
    engine = Engine(job(net, X, target=2, at="0"))
    hidden = net[0](X).detach()
    torch.testing.assert_close(engine.places["at"], hidden)
    assert engine.axes == ("batch", "feature")
    moved = (hidden * 0.5).requires_grad_()
    y = net[2](net[1](moved))[:, 2]
    plan = Plan(2, lambda c: {"at": c.x() * 0.5})
    np.testing.assert_allclose(engine.forward(plan)[:, 1], y.detach(), atol=1e-6)
    (wanted,) = torch.autograd.grad(y.sum(), moved)
    torch.testing.assert_close(engine.gradient(plan)["at"], 2 * wanted)


def test_the_second_call_of_a_layer() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            return self.part(torch.tanh(self.part(x)))[:, :2]

    net = Twice()
    plan = Plan(1, lambda c: {"at": c.x() * 0})
    for at, wanted in (("part#1", net.part.bias[:2]), ("part#2", torch.zeros(2)),
                       ("part", torch.zeros(2))):  # fmt: skip
        scores = Engine(job(net, X, target=1, at=at)).forward(plan)[:, 0]
        np.testing.assert_allclose(scores, np.full(5, float(wanted[1].detach())), atol=1e-6)


class Words(nn.Module):
    """Two look-ups in one table, positions from another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.position = nn.Embedding(11, 6), nn.Embedding(5, 6)
        self.out = nn.Linear(6, 3)

    def forward(self, ids: Any, others: Any) -> Any:
        place = self.position(torch.arange(ids.shape[1]))
        a, b = self.table(ids) + place, self.table(others)
        return self.out(torch.tanh(a * 2 + b).mean(1))


def test_tokens_are_varied_at_their_embeddings() -> None:
    net = Words()
    ids = {"ids": torch.tensor([[1, 2, 3], [4, 5, 6]]), "others": torch.tensor([[7, 8, 9]] * 2)}
    engine = Engine(job(net, ids, target=1))
    assert engine.axes == ("batch", "token", "feature")
    first, second = engine.places
    torch.testing.assert_close(engine.places[first], net.table(ids["ids"]).detach())
    a = (net.table(ids["ids"]) * 0.5).detach().requires_grad_()
    b = net.table(ids["others"]).detach().requires_grad_()
    y = net.out(torch.tanh((a + net.position(torch.arange(3))) * 2 + b).mean(1))[:, 1]
    wanted = torch.autograd.grad(y.sum(), [a, b])
    plan = Plan(1, lambda c: {first: c.x(first) * 0.5})
    found = engine.gradient(plan)
    torch.testing.assert_close(found[first], wanted[0])
    torch.testing.assert_close(found[second], wanted[1])
    np.testing.assert_allclose(engine.forward(plan)[:, 0], y.detach(), atol=1e-6)


def test_inputs_without_a_batch_are_shared() -> None:
    def model(x: Any, table: Any) -> Any:
        return (x * table).sum(1)

    x, table = torch.ones(3, 2), torch.tensor([[1.0, 2.0]])
    engine = Engine(job(model, (x, table)), rows=4)
    found = engine.gradient(Plan(3, lambda c: {"input0": c.x("input0")}))
    assert found["input0"].tolist() == [[3.0, 6.0]] * 3


def test_what_cannot_be_varied() -> None:
    engine = Engine(job(small(), X))
    with pytest.raises(InputError, match="no place named 'pixels' to vary"):
        engine.forward(Plan(1, lambda c: {"pixels": c.x()}))
    constant = Engine(job(lambda x: torch.ones(len(x)), X))
    with pytest.raises(TargetError, match="does not depend on its input"):
        constant.gradient(Plan(1, lambda c: {"input": c.x()}))
