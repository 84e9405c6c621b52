"""The walk: what it carries, which rule a node gets, what it refuses, and what it writes down."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import whence
from whence.backward import Split, name_of, plan, reached, walk
from whence.errors import MissingRule
from whence.ops import Op
from whence.rules.composite import BASE
from whence.rules.gradient import GRADIENT, gradient


def forked(x):
    """Two branches that meet again: relu(2 x) + 3 x."""
    return torch.relu(x * 2) + x * 3


def by(table):
    return lambda node: table.get(node.kind)


def value_of(tape, op):
    return next(n for n in tape.nodes if n.op == op).out[0]


def test_branches_add_up_where_they_part():
    x = torch.tensor([[1.0, -1.0]])
    tape = whence.record(forked, x)
    (source,), output = tape.sources, tape.outputs["output"]
    rules = plan(tape, by(GRADIENT), [output], [source])
    found = walk(tape, rules, {output: torch.ones(1, 2)}, [source], samples=1)
    np.testing.assert_array_equal(found.relevance[source].detach(), [[5.0, 3.0]])
    assert found.rows == []
    tape.free()


def test_only_what_lies_between_gets_a_rule():
    tape = whence.record(forked, torch.ones(1, 2))
    after_relu, output = value_of(tape, "relu"), tape.outputs["output"]
    assert [tape.nodes[i].op for i in sorted(reached(tape, [after_relu]))] == ["add"]
    rules = plan(tape, by(GRADIENT), [output], [after_relu])
    assert [tape.nodes[i].op for i in rules] == ["add"]
    # From the rectifier back to the input there is no sum and no second product.
    rules = plan(tape, by(GRADIENT), [after_relu], tape.sources)
    assert [tape.nodes[i].op for i in sorted(rules)] == ["mul", "relu"]
    tape.free()


def test_several_seeds_and_several_places():
    tape = whence.record(forked, torch.ones(1, 2))
    inner, output, (source,) = value_of(tape, "relu"), tape.outputs["output"], tape.sources
    rules = plan(tape, by(GRADIENT), [output, inner], [source, inner])
    seeds = {output: torch.ones(1, 2), inner: torch.full((1, 2), 10.0)}
    found = walk(tape, rules, seeds, [source, inner], samples=1).relevance
    np.testing.assert_array_equal(found[inner].detach(), [[11.0, 11.0]])
    np.testing.assert_array_equal(found[source].detach(), [[25.0, 25.0]])
    tape.free()


def test_a_place_that_the_seed_does_not_reach_is_absent():
    def two(a, b):
        return a * 2, b * 3

    tape = whence.record(two, (torch.ones(1, 2), torch.ones(1, 2)))
    a, b = tape.sources
    output = tape.outputs["output0"]
    rules = plan(tape, by(GRADIENT), [output], [a, b])
    found = walk(tape, rules, {output: torch.ones(1, 2)}, [a, b], samples=1).relevance
    assert list(found) == [a]
    tape.free()


def test_results_that_nothing_arrives_at_count_as_zero():
    """Of the two halves of a split only one goes on; the other's relevance is zero."""
    x = torch.arange(1.0, 5.0).reshape(1, 4)
    e = whence.explain(lambda t: t.chunk(2, 1)[1] * 2, x, "lrp", target=0)
    np.testing.assert_allclose(e.attribution.numpy(), [[0, 0, 6, 0]], rtol=1e-5)


def test_consume_frees_what_was_passed():
    tape = whence.record(forked, torch.ones(1, 2))
    (source,), output = tape.sources, tape.outputs["output"]
    rules = plan(tape, by(GRADIENT), [output], [source])
    walk(tape, rules, {output: torch.ones(1, 2)}, [source], samples=1, consume=True)
    with pytest.raises(RuntimeError, match="the relu at the top was released already"):
        next(n for n in tape.nodes if n.op == "relu").pull(torch.ones(1, 2))


class Odd(nn.Module):
    """An op that no table knows, two layers deep."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), Cumulative(), nn.Linear(3, 2))

    def forward(self, x):
        return self.body(x)


class Cumulative(nn.Module):
    def forward(self, x):
        return torch.cumprod(x, 1)


def test_a_missing_rule_names_op_layer_place_and_ways_out():
    expected = (
        "no rule for opaque.cumprod at layer body.1, node 2 of 4 on the tape. Ways out: "
        'unknown="gradient"'
    )
    with pytest.raises(MissingRule, match=re.escape(expected)) as caught:
        whence.explain(Odd(), torch.randn(2, 3), "lrp")
    assert isinstance(caught.value, LookupError)
    text = str(caught.value)
    for way in ("recorded in the result", "a rule of your own", "a gradient method"):
        assert way in text


def test_a_missing_rule_off_the_way_does_not_matter():
    class Aside(nn.Module):
        def forward(self, x):
            torch.cumprod(x, 1).sum()
            return x * 2

    e = whence.explain(Aside(), torch.tensor([[1.0, 2.0]]), "lrp")
    np.testing.assert_allclose(e.attribution.numpy(), [[0, 4]], rtol=1e-5)
    # Nor does one before the layer where the attribution is read.
    e = whence.explain(Odd(), torch.randn(2, 3), "lrp", at="body.1")
    assert e.attribution.shape == (2, 3)


def test_the_gradient_where_no_rule_is_known_is_recorded():
    torch.manual_seed(1)
    net, x = Odd(), torch.randn(2, 3)
    e = whence.explain(net, x, "lrp", unknown="gradient", eps=0)
    assert e.options["unknown"] == "gradient"
    assert any("no rule for cumprod at body.1" in n for n in e.notes)
    assert (e.ledger.balance < 1e-5).all()
    row = next(r for r in e.ledger if r.op == "cumprod")
    assert row.rule == "proportional"
    assert set(row.absorbed) == {"unknown"}
    np.testing.assert_allclose(
        row.absorbed["unknown"], row.relevance_in - row.relevance_out, rtol=1e-5
    )
    assert all("no rule" not in n for n in whence.explain(net, x, "gradient").notes)


def test_a_rule_of_ones_own_in_a_table():
    """A rule is a function; the books say which one it was."""

    def keep_positive(node, relevance):
        return (relevance.clamp(min=0),)

    table = BASE | {Op.DENSE: whence.rules.Epsilon(), Op.RELU: keep_positive}
    tape = whence.record(forked, torch.ones(1, 2))
    (source,), output = tape.sources, tape.outputs["output"]
    rules = plan(tape, by(table), [output], [source])
    with torch.no_grad():
        found = walk(tape, rules, {output: torch.ones(1, 2)}, [source], samples=1, ledger=True)
    assert [r.rule for r in found.rows] == [
        "Epsilon(eps=1e-06)", "Epsilon(eps=1e-06)", "keep_positive", "Epsilon(eps=1e-06)",
    ]  # fmt: skip
    tape.free()


def test_what_passes_around_a_layer_is_booked():
    """Of x + conv(x) the skip's share does not come through the convolution's output."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return x + self.inner(x)

    x = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, -1.0]])
    net = Block()
    e = whence.explain(net, x, "lrp", target=1, at="inner", eps=0)
    inner = net.inner(x)[:, 1].detach().numpy()
    np.testing.assert_allclose(e.attribution[:, 1].numpy(), inner, rtol=1e-5)
    np.testing.assert_allclose(e.ledger.absorbed()["around"], x[:, 1].numpy(), rtol=1e-5)
    assert (e.ledger.balance < 1e-6).all()
    assert any("passes around layer inner (a skip connection)" in n for n in e.notes)


def test_names_of_rules():
    assert name_of(gradient) == "gradient"
    assert name_of(whence.rules.Epsilon(0.5)) == "Epsilon(eps=0.5)"


def test_a_rest_is_what_is_missing():
    split = Split((), lambda total: {})
    assert split.rest == ""
