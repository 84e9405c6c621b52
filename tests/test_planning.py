"""Which op gets which rule, before anything is explained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import whence
from support_nets import FRAMEWORKS, conv_twin, installed
from support_tape import changed, lively, state_of
from whence.errors import MissingRule, OptionError, UnknownName
from whence.rules import Epsilon, Flat, Gamma, WSquare, ZPlus


@pytest.fixture(params=FRAMEWORKS)
def twin(request):
    return conv_twin(installed(request.param))


def test_a_plan_is_what_the_ledger_then_says(twin):
    x = twin.array(twin.x)
    for options in (
        {}, {"composite": "gamma"}, {"rules": {"conv2": WSquare()}}, {"through": {"conv2": [1, 2]}},
        {"at": "conv2"}, {"target": whence.neuron("conv2", 1)}, {"keep": ["conv1"]},
    ):  # fmt: skip
        table = whence.plan(twin.model, x, **options)
        e = whence.explain(twin.model, x, "lrp", **options)
        rows = [(r.index, r.layer, r.op, r.kind, r.rule) for r in reversed(list(e.ledger))]
        assert [(r.index, r.layer, r.op, r.kind, r.rule) for r in table] == rows, options
        assert table.composite == e.options["composite"]


def test_it_prints_as_a_table():
    twin = conv_twin("torch")
    table = whence.plan(twin.model, twin.array(twin.x), composite="epsilon-plus-flat")
    lines = str(table).splitlines()
    assert lines[0] == "composite epsilon-plus-flat"
    assert lines[1].split() == ["index", "layer", "op", "kind", "rule"]
    assert lines[2].split() == ["1", "conv1", "conv2d+batch_norm", "conv", "Flat()"]
    assert lines[5].split() == ["4", "conv2", "conv2d", "conv", "ZPlus(bias='absorb')"]
    assert lines[-1].split() == ["7", "dense", "linear", "dense", "Epsilon(eps=1e-06)"]
    assert repr(table) == str(table)
    assert isinstance(table, tuple)
    assert len(table) == 7
    assert table[0].rule == "Flat()"


def test_deep_taylor_shows_what_each_domain_gets():
    twin = conv_twin("torch", 0.0)
    x = twin.array(twin.x)
    table = whence.plan(twin.model, x, "deep-taylor")
    weighted = [r.rule for r in table if r.kind in ("conv", "dense")]
    assert weighted == ["WSquare(bias=False)"] + ["ZPlus(bias='ignore')"] * 2
    boxed = whence.plan(twin.model, x, whence.DeepTaylor(-1, 2))
    assert boxed[0].rule == "Box(low=-1, high=2)"
    assert table.composite == "deep-taylor"


def test_nothing_is_computed_but_the_model_and_it_is_left_alone():
    calls = []

    def rule(node, relevance):
        calls.append(node)
        return Epsilon()(node, relevance)

    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)).train()
    before = state_of(net)
    table = whence.plan(net, torch.ones(2, 3), rules={"dense": rule})
    assert table[0].rule == "rule"
    assert calls == []
    assert changed(before, state_of(net)) == []


def test_rules_by_pattern_first_match_wins():
    net = lively(nn.ModuleDict({"stem": nn.Conv2d(2, 3, 3), "mid": nn.Conv2d(3, 3, 3),
                                "head": nn.Linear(3, 2)}))  # fmt: skip

    def model(x):
        x = net["mid"](net["stem"](x).relu()).relu()
        return net["head"](x.mean((2, 3)))

    x = torch.randn(1, 2, 8, 8)

    def planned(rules):
        table = whence.plan(model, x, composite="epsilon", rules=rules)
        return [r.rule.partition("(")[0] for r in table if r.kind in ("conv", "dense")]

    assert planned({"mid": Gamma()}) == ["Epsilon", "Gamma", "Epsilon"]
    assert planned({"*": Gamma()}) == ["Gamma"] * 3
    assert planned({"conv": Gamma()}) == ["Gamma", "Gamma", "Epsilon"]
    assert planned({"first": Flat()}) == ["Flat", "Epsilon", "Epsilon"]
    assert planned({"m*": ZPlus()}) == ["Epsilon", "ZPlus", "Epsilon"]
    assert planned({"[ms]*": ZPlus(), "dense": Gamma()}) == ["ZPlus", "ZPlus", "Gamma"]
    assert planned({"first": Flat(), "stem": Gamma(), "*": ZPlus()}) == ["Flat", "ZPlus", "ZPlus"]
    assert planned({"stem": Gamma(), "first": Flat()}) == ["Gamma", "Epsilon", "Epsilon"]


def test_a_layer_s_pattern_holds_for_its_children_and_their_weights_only():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(2, 2, 3), nn.ReLU()

        def forward(self, x):
            return self.act(self.conv(x))

    net = nn.Sequential(Block(), nn.Flatten(), nn.Linear(8, 2))
    table = whence.plan(net, torch.randn(1, 2, 4, 4), rules={"0": Gamma()})
    rules = {r.layer: r.rule for r in table}
    assert rules["0.conv"] == "Gamma(gamma=0.25, bias='absorb')"
    assert rules["0.act"] == "Pass()"


WRONG = {
    "conv9": (UnknownName, "the pattern 'conv9' in rules= matches no layer and no op kind on the "
              "tape. Nearest: 'conv', 'conv2', 'conv1'. A pattern is a layer name"),
    "layer*": (UnknownName, "the pattern 'layer*' in rules= matches no layer"),
    "matmul": (UnknownName, "and the kinds here are conv, relu, maxpool, shape, dense"),
}  # fmt: skip


@pytest.mark.parametrize("pattern", WRONG)
def test_a_pattern_that_matches_nothing_names_the_near_ones(pattern):
    kind, text = WRONG[pattern]
    twin = conv_twin("torch")
    for run in (whence.plan, whence.explain):
        with pytest.raises(kind) as caught:
            run(twin.model, twin.array(twin.x), "lrp", rules={pattern: Gamma()})
        assert text in str(caught.value)


def test_what_cannot_be_planned():
    net, x = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.ones(1, 2)
    with pytest.raises(OptionError, match="shows the rules of relevance methods, lrp and deep-tay"):
        whence.plan(net, x, "gradient")
    with pytest.raises(
        OptionError,
        match="'1' in rules= matches relu only, and a layer's pattern "
        r"gives Gamma\(gamma=0.25, bias='absorb'\) to dense, conv, affine ops",
    ):
        whence.plan(net, x, rules={"1": Gamma()})
    with pytest.raises(MissingRule, match="no rule for opaque"):
        whence.plan(lambda t: torch.linalg.inv(t).sum((1, 2)), torch.eye(2)[None])
    with pytest.raises(UnknownName, match="did you mean 'composite'"):
        whence.plan(net, x, composit="gamma")


class TestComposites:
    """A user's own table."""

    def test_prints_with_what_it_says_nothing_about(self):
        mine = whence.Composite((("layer4*", Epsilon(0.1)), ("conv", ZPlus())), "mine")
        lines = str(mine).splitlines()
        assert lines[0].split() == ["where", "rule"]
        assert lines[1].split() == ["layer4*", "Epsilon(eps=0.1)"]
        assert lines[2].split() == ["conv", "ZPlus(bias='absorb')"]
        assert "relu" in str(mine)

    def test_is_used_and_named(self):
        twin = conv_twin("torch")
        x = twin.array(twin.x)
        mine = whence.Composite({"first": Flat(), "conv2": Gamma(), "*": ZPlus()}, "mine")
        table = whence.plan(twin.model, x, composite=mine)
        assert [r.rule for r in table if r.kind in ("conv", "dense")] == [
            "Flat()", "Gamma(gamma=0.25, bias='absorb')", "ZPlus(bias='absorb')",
        ]  # fmt: skip
        assert table.composite == "mine"
        e = whence.explain(twin.model, x, "lrp", composite=mine)
        assert e.options["composite"] == "mine"
        assert (e.ledger.balance < 1e-5).all()

    @pytest.mark.parametrize("lines", [["conv"], [("conv", "ZPlus")], [(3, ZPlus())], ["ab"]])
    def test_of_another_form(self, lines):
        with pytest.raises(OptionError, match=r"a composite is a list of \(where, rule\)"):
            whence.Composite(lines)

    def test_every_named_one_prints(self):
        from whence.rules.composite import NAMES

        for name in NAMES:
            options = {"low": 0, "high": 1} if name == "epsilon-gamma-box" else {}
            text = str(NAMES[name](**options))
            assert "conv " in text
            assert "softmax" in text

    def test_an_option_that_it_has_not_got(self):
        with pytest.raises(OptionError, match="'gamma' does not take eps; its options: gamma"):
            whence.LRP("gamma", eps=1e-3)
