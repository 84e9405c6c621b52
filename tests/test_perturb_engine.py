"""The shared loop: the same numbers for any chunk, bounded memory, and what can go wrong."""

from __future__ import annotations

import gc
import sys
from typing import Any

import numpy as np
import pytest

import whence
from support_averaged import job
from whence.errors import OptionError
from whence.perturb import progress
from whence.perturb.chunks import Chunk
from whence.perturb.engine import Engine, Interrupted, Plan
from whence.perturb.memory import out_of_memory
from whence.perturb.seeds import Seeds
from whence.perturb.sums import Sums

torch = pytest.importorskip("torch")
nn = torch.nn


def small() -> Any:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3))


def noisy(draws: int = 7) -> Plan:
    def make(chunk: Chunk) -> dict[str, Any]:
        noise = chunk.random(lambda g: g.standard_normal(4))
        return {"input": chunk.x() + chunk.array(noise, chunk.like)}

    return Plan(draws, make)


X = torch.linspace(-2, 2, 20).reshape(5, 4)


# ---- the same numbers whatever the chunk


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 11, 34, 35, 1000])
def test_chunks_do_not_matter(rows: int) -> None:
    net = small()
    one, other = Engine(job(net, X), rows=35), Engine(job(net, X), rows=rows)
    np.testing.assert_allclose(other.forward(noisy()), one.forward(noisy()), atol=1e-6)
    weights = np.linspace(1, 2, 7)
    a, b = (e.gradient(noisy(), weights)["input"] for e in (one, other))
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    assert sum(other.sizes) == 70 and max(other.sizes) <= rows


def test_sums_are_the_sums_over_draws() -> None:
    """Against a plain loop over samples and draws."""
    net = small()
    engine = Engine(job(net, X, target=1), rows=3, seed=5)
    weights = np.linspace(1, 2, 7)
    found = engine.gradient(noisy(), weights)["input"]
    scores = engine.forward(noisy())
    for s in range(5):
        total = torch.zeros(4)
        for d in range(7):
            noise = Seeds(5, None, 5).generator(s, d).standard_normal(4)
            z = (X[s] + torch.tensor(noise, dtype=torch.float32)).requires_grad_()
            y = net(z[None])[0, 1]
            total += weights[d] * torch.autograd.grad(y, z)[0]
            assert scores[s, d] == pytest.approx(float(y.detach()), abs=1e-5)
        torch.testing.assert_close(found[s], total, atol=1e-5, rtol=1e-5)


def test_a_sample_alone_is_the_sample_in_a_batch() -> None:
    net = small()
    batch = Engine(job(net, X)).forward(noisy())
    alone = Engine(job(net, X[3:4]), sample_ids=[3]).forward(noisy())
    np.testing.assert_allclose(alone[0], batch[3], atol=1e-6)
    other = Engine(job(net, X[3:4])).forward(noisy())
    assert np.abs(other[0] - batch[3]).max() > 1e-3


def test_some_samples_only() -> None:
    net = small()
    plan = Plan(7, noisy().make, samples=[4, 1])
    engine = Engine(job(net, X), rows=5)
    whole = engine.gradient(noisy())["input"]
    torch.testing.assert_close(engine.gradient(plan)["input"], whole[[4, 1]], atol=1e-6, rtol=1e-6)
    assert engine.forward(plan).shape == (2, 7)
    np.testing.assert_allclose(engine.forward(plan), engine.forward(noisy())[[4, 1]], atol=1e-6)


def test_the_class_is_chosen_at_x() -> None:
    """Far away another class is on top; the one of x is explained all the same."""
    net = nn.Linear(2, 2, bias=False)
    net.weight.data = torch.eye(2)
    engine = Engine(job(net, torch.tensor([[2.0, 1.0]])))
    assert engine.base.index is not None and engine.base.index.tolist() == [0]
    away = engine.forward(Plan(1, lambda c: {"input": c.x() * 0 + torch.tensor([-5.0, 9.0])}))
    assert away.tolist() == [[-5.0]]
    grads = engine.gradient(Plan(1, lambda c: {"input": c.x() * 0 + torch.tensor([-5.0, 9.0])}))
    assert grads["input"].tolist() == [[1.0, 0.0]]


def test_reduce_sees_each_row_once() -> None:
    seen: list[tuple[int, int]] = []

    def reduce(chunk: Chunk, scores: np.ndarray) -> None:
        assert len(scores) == chunk.real
        seen.extend(zip(chunk.sample.tolist(), chunk.draw.tolist(), strict=True))

    Engine(job(small(), X), rows=4).forward(noisy(3), reduce)
    assert seen == [(s, d) for s in range(5) for d in range(3)]


# ---- random numbers


def test_draws_belong_to_seed_sample_and_draw() -> None:
    def first(*key: Any) -> float:
        seed, ids, sample, draw, stream = key
        return float(Seeds(seed, ids, len(ids)).generator(sample, draw, stream).random())

    base = first(0, [0, 1], 1, 2, 0)
    assert base == first(0, [7, 5, 1], 2, 2, 0)
    others = [first(1, [0, 1], 1, 2, 0), first(0, [0, 1], 0, 2, 0), first(0, [0, 1], 1, 3, 0),
              first(0, [0, 1], 1, 2, 1), first(0, ["0", "1"], 1, 2, 0)]  # fmt: skip
    assert len({base, *others}) == 6


@pytest.mark.parametrize(
    ("seed", "ids", "said"),
    [(-1, None, "seed is a whole number"), (1.5, None, "seed is"), (True, None, "seed is"),
     (0, [1], "1 sample_ids were given for 2"), (0, [1.5, 2], "a sample id is")],
)  # fmt: skip
def test_wrong_seeds(seed: Any, ids: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Seeds(seed, ids, 2)


def test_global_random_state_and_model_are_left_alone() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    engine = Engine(job(net, X))
    engine.forward(noisy())
    engine.gradient(noisy())
    Engine(job(net, X, at="1")).gradient(Plan(2, lambda c: {"at": c.x() * 2}))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training and net[2].training
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()


# ---- memory


class Tight(nn.Module):
    """Fails above so many rows."""

    def __init__(self, most: int, error: BaseException) -> None:
        super().__init__()
        self.net, self.most, self.error = small(), most, error
        self.rows: list[int] = []

    def forward(self, x: Any) -> Any:
        self.rows.append(len(x))
        if len(x) > self.most:
            raise self.error
        return self.net(x)


def tf_error() -> BaseException:
    return type("ResourceExhaustedError", (Exception,), {})("OOM when allocating tensor")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
     RuntimeError("DefaultCPUAllocator: can't allocate memory"),
     torch.OutOfMemoryError("no"), tf_error()],
)  # fmt: skip
def test_a_chunk_that_does_not_fit_is_halved(error: BaseException) -> None:
    tight = Tight(6, error)
    x = X[:1]
    wanted = Engine(job(tight.net, x), seed=2).gradient(noisy(30))["input"]
    engine = Engine(job(tight, x), seed=2)
    found = engine.gradient(noisy(30))["input"]
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
    assert tight.rows == [1, 30, 15, 7, 3] + [3] * 9 and engine.sizes == [3] * 10
    tight.rows.clear()
    Engine(job(tight, x), seed=2).gradient(noisy(30))
    assert max(tight.rows) == 3, "the size that worked is remembered"


def test_other_errors_are_not_memory() -> None:
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError, match="shapes"):
        Engine(job(Tight(1, RuntimeError("shapes")), X[:1]), rows=4).forward(noisy(8))


def test_a_single_row_that_does_not_fit() -> None:
    tight = Tight(1, MemoryError("full"))
    engine = Engine(job(tight, X[:1]))
    assert engine.base.score.shape == (1,)
    tight.most = 0
    with pytest.raises(MemoryError) as caught:
        engine.forward(noisy(8))
    assert "one row of the batch alone does not fit" in caught.value.__notes__[0]


def test_no_array_of_all_steps_is_held() -> None:
    """However many draws there are, only a chunk's worth of numbers lives at a time."""
    most = calls = 0

    def model(x: Any) -> Any:
        nonlocal most, calls
        calls += 1
        if calls % 8:
            return (x**2).sum(1)
        alive = {}
        for thing in gc.get_objects():
            if type(thing) is torch.Tensor:
                alive[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        most = max(most, sum(alive.values()))
        return (x**2).sum(1)

    x = torch.randn(2, 20_000)
    plan = Plan(120, lambda c: {"input": c.x() * c.column(c.draw + 1.0, c.like)})
    engine = Engine(job(model, x), rows=6)
    gc.collect()
    found = engine.gradient(plan)["input"]
    chunk = 6 * 20_000 * 4
    assert calls == 41 and 0 < most < 8 * chunk + 4 * x.numel() * 4, "a fifth of all steps"
    torch.testing.assert_close(found, 2 * x * float(sum(range(1, 121))))


# ---- interruption, progress


def test_ctrl_c_leaves_what_was_finished() -> None:
    class Stops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.left = small(), 10**6

        def forward(self, x: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return self.net(x)

    stops = Stops()
    whole = Engine(job(stops, X)).gradient(noisy())["input"]
    scores = Engine(job(stops, X)).forward(noisy())
    for run in ("gradient", "forward"):
        engine = Engine(job(stops, X), rows=4)
        engine.base  # noqa: B018
        stops.left = 6
        with pytest.raises(KeyboardInterrupt, match=r"interrupted after 24 of 35") as caught:
            getattr(engine, run)(noisy())
        error = caught.value
        assert isinstance(error, Interrupted) and error.samples.tolist() == [0, 1, 2]
        if run == "gradient":
            torch.testing.assert_close(error.arrays["input"], whole[:3], atol=1e-6, rtol=1e-6)
        else:
            np.testing.assert_allclose(error.arrays["scores"], scores[:3], atol=1e-6)
        stops.left = 0
        with pytest.raises(Interrupted, match=r"interrupted after 0 of 35") as caught:
            getattr(engine, run)(noisy())
        assert caught.value.samples.tolist() == []
        stops.left = 10**6


def test_the_bar_waits_a_second_and_needs_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress("calls", 10, True) as bar:
        bar.at(1)
        assert bar.bar is None
        now[0] = 1.5
        bar.at(2)
        assert bar.bar is not None and bar.bar.tasks[0].completed == 2
    with progress.Progress("calls", 10) as bar:
        now[0] = 10.0
        bar.at(5)
        assert bar.bar is None and not sys.stderr.isatty()
    assert "calls" not in capsys.readouterr().out


@pytest.mark.parametrize("draws", [0, -1, 1.5, True])
def test_wrong_draws(draws: Any) -> None:
    with pytest.raises(OptionError, match="draw"):
        Plan(draws, lambda c: {})


def test_wrong_rows() -> None:
    with pytest.raises(OptionError, match="rows is a whole number"):
        Engine(job(small(), X), rows=0)


def test_sums_of_half_precision_are_single() -> None:
    sums = Sums(whence.frameworks.by_name("torch").xp, 3001)
    sums.add({"a": torch.ones(3001, 1, dtype=torch.float16)}, 3001)
    assert sums.finished()["a"].tolist() == [[3001.0]]


# ---- where a shape is a graph


def test_tensorflow_sees_one_shape() -> None:
    tf = pytest.importorskip("tensorflow")
    shapes = []

    @tf.function
    def model(x: Any) -> Any:
        shapes.append(x.shape[0])
        return tf.stack([tf.reduce_sum(x**2, 1), tf.reduce_sum(x, 1)], 1)

    x = tf.constant(X.numpy())
    engine = Engine(job(model, x), rows=8)
    whole = Engine(job(model, x), rows=35).gradient(noisy())["input"].numpy()
    del shapes[:]
    found = engine.gradient(noisy())["input"].numpy()
    np.testing.assert_allclose(found, whole, atol=1e-5)
    assert engine.sizes == [8] * 5 and set(shapes) <= {5, 8}
    framework = engine.framework
    before = framework.traces
    Engine(job(model, x), rows=8).gradient(noisy())
    assert framework.traces == before
