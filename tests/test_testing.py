"""The checker is checked: right rules pass, each planted error is named."""

from __future__ import annotations

import pytest

from whence import rules, testing
from whence.backward import Split
from whence.errors import OptionError

pytest.importorskip("torch")

AFFINE = [
    rules.Epsilon(), rules.Epsilon(0.1), rules.Gamma(), rules.Gamma(1.0, bias="distribute"),
    rules.ZPlus(), rules.ZPlus(bias="ignore"), rules.AlphaBeta(2, 1), rules.AlphaBeta(1, 0),
    rules.AlphaBeta(2, 1, empty="strict"), rules.WSquare(), rules.WSquare(bias=True), rules.Flat(),
    rules.Box(-4, 4),
]  # fmt: skip


@pytest.mark.parametrize("rule", AFFINE, ids=repr)
def test_every_affine_rule_passes(rule):
    testing.check_rule(rule, ("dense", "conv"))


@pytest.mark.parametrize(
    "rule", [rules.Epsilon(), rules.ZPlus(), rules.Gamma(), rules.AlphaBeta()], ids=repr
)
def test_rules_for_elementwise_affine_ops(rule):
    testing.check_rule(rule, ("affine",))


def test_pass_and_shared_sums():
    testing.check_rule(rules.Pass(), ("relu", "activation"))
    testing.check_rule(rules.Epsilon(), ("add",))


def leaks(node, relevance):
    return tuple(0.9 * p for p in rules.Epsilon(0.0)(node, relevance).parts)


def mixes(node, relevance):
    return (node.inputs[0] * node.pull(relevance / node.output.mean())[0],)


def squares(node, relevance):
    return (node.pull(relevance * relevance)[0],)


def writes(node, relevance):
    relevance *= 2
    return rules.Epsilon()(node, relevance)


def wrong_shape(node, relevance):
    return (relevance,)


def divides(node, relevance):
    z = node.output
    return Split((node.inputs[0] * node.pull(relevance / (z * 0))[0],), lambda total: {})


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (leaks, "is missing"),
        (mixes, "depends on its batch"),
        (squares, "not linear in the relevance"),
        (writes, "changed an array that it was given"),
        (wrong_shape, "the operand has shape"),
        (divides, "not finite"),
        (
            lambda n, r: rules.Epsilon()(n, r).parts[0],
            "one array for each of 1 operand(s) is wanted; got Tensor",
        ),
    ],
)
def test_planted_errors_are_named(rule, text):
    with pytest.raises(AssertionError) as error:
        testing.check_rule(rule, ("dense",))
    assert text in str(error.value)


def test_unknown_kind():
    with pytest.raises(OptionError, match="no op of kind 'pool'"):
        testing.check_rule(rules.Epsilon(), ("pool",))
