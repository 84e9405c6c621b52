"""The books: what came in is what went out and what was absorbed, op by op and in all."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whence
from support import import_torchvision
from support_nets import conv_twin
from support_tape import lively
from whence.backward import Split
from whence.errors import MissingFramework
from whence.ledger import Entry, Ledger
from whence.rules.affine import Epsilon

SIDE = 32


def vision(name, **options):
    return lambda: (getattr(import_torchvision().models, name)(weights=None, **options),
                    torch.randn(2, 3, SIDE, SIDE))  # fmt: skip


class Dense(nn.Module):
    """Every layer sees all before it, joined along the channels, with norms before activations."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(3 + 4 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.head = nn.Linear(15, 5)

    def forward(self, x):
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.head(F.adaptive_avg_pool2d(F.avg_pool2d(x, 2), 1).flatten(1))


class Words(nn.Module):
    """A recurrent net over tokens; the last state and the mean go to the head."""

    def __init__(self, kind, batch_first):
        super().__init__()
        self.batch_first = batch_first
        self.table = nn.Embedding(20, 6)
        # As many features as samples: shapes alone do not tell time, batch and features apart.
        self.cell = kind(6, 4, num_layers=2, bidirectional=True, batch_first=batch_first)
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        x = self.table(ids)
        x = x if self.batch_first else x.transpose(0, 1)
        states, _ = self.cell(x)
        steps = 1 if self.batch_first else 0
        return self.head(states.mean(steps) + states.select(steps, 4))


def bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=12, num_labels=3,
    )  # fmt: skip
    net = transformers.BertForSequenceClassification(config)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, 4:] = 0
    return net, {"input_ids": torch.randint(0, 30, (2, 6)), "attention_mask": mask}


def words(kind, batch_first):
    return lambda: (Words(kind, batch_first), torch.randint(0, 20, (4, 5)))


NETS = {
    "resnet18": vision("resnet18"),
    "mobilenet_v2": vision("mobilenet_v2"),
    "dense": lambda: (Dense(), torch.randn(2, 3, 8, 8)),
    "vit": lambda: (
        import_torchvision().models.VisionTransformer(SIDE, 8, 2, 4, 32, 48, num_classes=5),
        torch.randn(2, 3, SIDE, SIDE)),
    "swin": lambda: (
        import_torchvision().models.SwinTransformer([4, 4], 12, [2, 2], [2, 4], [2, 2]),
        torch.randn(2, 3, SIDE, SIDE)),
    "bert": bert,
    "gru": words(nn.GRU, batch_first=True),
    "lstm, time first": words(nn.LSTM, batch_first=False),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_the_books_balance_for_every_sample(name):
    torch.manual_seed(3)
    net, x = NETS[name]()
    net = lively(net)
    e = whence.explain(net, x, "lrp", target=1)
    books = e.ledger
    assert (books.balance < 1e-5).all(), books.balance
    seed = np.abs(books.seed)
    np.testing.assert_allclose(books.seed, e.output, rtol=1e-6)
    for row in books:
        limit = 1e-4 * np.maximum(np.abs(row.relevance_in), seed.max())
        assert (np.abs(row.unexplained) < limit).all(), row
    whole = e.to_numpy().reshape(len(seed), -1).sum(1)
    np.testing.assert_allclose(books.total, whole, rtol=1e-5, atol=1e-6 * seed.max())
    # The same sample alone has the same books.
    one = {k: v[1:2] for k, v in x.items()} if isinstance(x, dict) else x[1:2]
    alone = whence.explain(net, one, "lrp", target=1).ledger
    scale = float(max(np.abs(r.relevance_in).max() for r in alone))
    if [r.op for r in alone] == [r.op for r in books]:
        for a, b in zip(books, alone, strict=True):
            assert a.relevance_in[1] == pytest.approx(b.relevance_in[0], abs=2e-4 * scale), a.op
    else:  # a constant state of one row is folded into the product before it as its bias is
        assert "lstm" in name
    for reason, amount in alone.absorbed().items():
        assert books.absorbed()[reason][1] == pytest.approx(amount[0], abs=5e-4 * scale), reason


def test_the_books_balance_at_a_layer_too():
    net = lively(import_torchvision().models.resnet18(weights=None))
    x = torch.randn(2, 3, SIDE, SIDE)
    for at in ("layer4", "layer3.0.conv1", "maxpool"):
        e = whence.explain(net, x, "lrp", at=at)
        assert (e.ledger.balance < 1e-5).all()
        assert ("around" in e.ledger.absorbed()) == (at == "layer3.0.conv1")


def test_in_both_frameworks(rng):
    pytest.importorskip("tensorflow")
    found = {}
    for name in ("torch", "tensorflow"):
        twin = conv_twin(name)
        e = whence.explain(twin.model, twin.array(twin.x), "lrp", target=2)
        assert (e.ledger.balance < 1e-5).all()
        found[name] = e.ledger
    ours, theirs = found["torch"].absorbed(), found["tensorflow"].absorbed()
    np.testing.assert_allclose(ours["bias"], theirs["bias"], rtol=1e-4)


class Lossy(Epsilon):
    """A rule with a mistake: it passes on nine tenths and says nothing of the rest."""

    def __call__(self, node, relevance):
        split = super().__call__(node, relevance)
        return Split(tuple(p * 0.9 for p in split.parts), split.absorbed)


def test_a_rule_that_loses_relevance_is_seen():
    """Through the library's own walk, with a table that has the mistake in one place."""
    from whence.backward import plan, walk
    from whence.ops import Op
    from whence.rules.composite import BASE

    twin = conv_twin("torch")
    tape = whence.record(twin.model, twin.array(twin.x))
    value, places = tape.outputs["output"], tape.sources
    seed = value.array.detach()
    balances = {}
    for name, rule in (("right", Epsilon()), ("lossy", Lossy())):
        table = BASE | {Op.DENSE: Epsilon(), Op.CONV: rule}
        rules = plan(tape, lambda n, t=table: t.get(n.kind), [value], places)
        with torch.no_grad():
            found = walk(tape, rules, {value: seed}, places, samples=3, ledger=True)
        rows = [
            Entry(r.index, r.layer, r.op, r.kind, r.rule, r.relevance_in.numpy(),
                  r.relevance_out.numpy(), {k: np.asarray(v) for k, v in r.absorbed.items()})
            for r in found.rows
        ]  # fmt: skip
        total = found.relevance[places[0]].sum((1, 2, 3)).numpy()
        books = Ledger(rows, seed.sum(1).numpy(), total)
        balances[name] = books.balance
        wrong = {
            r.op for r in rows if (np.abs(r.unexplained) > 1e-3 * np.abs(r.relevance_in)).any()
        }
        assert wrong == (set() if name == "right" else {"conv2d"})
    assert (balances["right"] < 1e-5).all()
    assert (balances["lossy"] > 1e-3).all()
    tape.free()


def entry(layer, op, came, went, index=0, **absorbed):
    numbers = {k: np.array(v, float) for k, v in absorbed.items()}
    return Entry(
        index, layer, op, op, "rule", np.array(came, float), np.array(went, float), numbers
    )


BOOKS = Ledger(
    [
        entry("head", "dense", [10, -4], [9, -4], 3, bias=[1, 0]),
        entry("block", "add", [9, -4], [9, -4], 2),
        entry("block.conv", "conv", [5, -1], [3, -2], 1, bias=[1, 2], epsilon=[1, -1]),
        entry("block", "relu", [3, -2], [3, -2], 0),
    ],
    np.array([10.0, -4.0]),
    np.array([7.0, -5.0]),
)


def test_balance_and_sums():
    np.testing.assert_array_equal(BOOKS.balance, [0, 0])
    np.testing.assert_array_equal(BOOKS.absorbed()["bias"], [2, 2])
    np.testing.assert_array_equal(BOOKS.absorbed()["epsilon"], [1, -1])
    off = Ledger(BOOKS.rows, BOOKS.seed, np.array([6.0, -5.0]))
    np.testing.assert_allclose(off.balance, [0.1, 0])
    assert len(BOOKS) == 4
    assert [r.op for r in BOOKS] == ["dense", "add", "conv", "relu"]


def test_by_layer_keeps_the_identity():
    """A layer that relevance leaves and comes back to is not counted twice."""
    rows = BOOKS.by_layer().rows
    assert [r.layer for r in rows] == ["head", "block", "block.conv"]
    for row in rows:
        np.testing.assert_array_equal(row.unexplained, [0, 0])
    block = rows[1]
    assert block.op == "relu+add"
    np.testing.assert_array_equal(block.relevance_in, [9, -4])
    np.testing.assert_array_equal(block.relevance_out, [9, -4])
    np.testing.assert_array_equal(BOOKS.by_layer().balance, [0, 0])


def test_the_worst_leak():
    worst = BOOKS.worst()
    assert (worst.entry.op, worst.reason, worst.share) == ("conv", "bias", 0.5)
    assert str(worst) == "sample 1 loses 50% at block.conv (conv, rule): bias"
    assert Ledger([], np.zeros(1), np.zeros(1)).worst() is None


def test_rows_as_dicts_and_frames():
    assert BOOKS.to_dicts(sample=1)[2] == {
        "index": 1, "layer": "block.conv", "op": "conv", "kind": "conv", "rule": "rule",
        "in": -1.0, "out": -2.0, "bias": 2.0, "epsilon": -1.0,
    }  # fmt: skip
    assert BOOKS.to_dicts()[0]["in"] == 6.0
    try:
        import pandas  # noqa: F401
    except ImportError:
        with pytest.raises(MissingFramework, match="a data frame needs pandas: pip install"):
            BOOKS.to_frame()
    else:
        assert BOOKS.to_frame()["in"].tolist() == [6.0, 5.0, 4.0, 1.0]


def test_as_text():
    lines = str(BOOKS).splitlines()
    assert re.match(r"layer +op +in +out  absorbed", lines[0])
    assert re.match(r"head +dense +6 +5  bias 1$", lines[1])
    assert re.match(r"block +add +5 +5$", lines[2])
    assert re.match(r"block.conv +conv +4 +1  bias 3$", lines[3])
    assert lines[-1] == "seed 6, arrived 2, balance 0"


def test_no_books_where_none_are_wanted():
    twin = conv_twin("torch")
    assert whence.explain(twin.model, twin.array(twin.x), "lrp", ledger=False).ledger is None
    assert whence.explain(twin.model, twin.array(twin.x), "gradient").ledger is None
