"""Data of every kind go in; what comes out is what explaining each sample alone gives."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
import zarr

import whence
from support_dataset import IMAGES, Counted, N, X, Y, run_of
from whence.data import digits_model
from whence.dataset import DatasetRun, explain_dataset, load_run
from whence.dataset.work import Work, explain_part
from whence.errors import (
    InputError,
    UnknownName,
)
from whence.images import Preprocess


@pytest.fixture(scope="module")
def net():
    return digits_model("torch")


def assert_explains(run, net, x=X, method="gradient-x-input", **options):
    expected = whence.explain(net, x, method, **options)
    assert len(run) == len(x) and run.complete and run.failures == [] and run.done == len(x)
    np.testing.assert_allclose(run.attribution[:], expected.to_numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(run.output, expected.output, rtol=1e-6)
    np.testing.assert_array_equal(run.target, expected.target)
    np.testing.assert_array_equal(run.answer, expected.answer)
    np.testing.assert_allclose(run.probability, expected.probability, rtol=1e-6)
    np.testing.assert_allclose(run.gap, expected.gap, rtol=1e-3, atol=1e-6)


class Endless:
    """An iterable that begins anew each time and does not know its length."""

    def __iter__(self):
        return iter([*zip(X, Y, strict=True)])


def loader(**options):
    return torch.utils.data.DataLoader(Counted(), **options)


KINDS = {
    "array": lambda: X,
    "tensor": lambda: torch.from_numpy(X),
    "pair": lambda: (X, Y),
    "dict": lambda: {"x": X, "label": Y, "id": [f"d{i}" for i in range(N)]},
    "list": lambda: list(X),
    "pairs": lambda: [*zip(X, Y, strict=True)],
    "dicts": lambda: [{"x": X[i], "label": Y[i], "id": f"d{i}"} for i in range(N)],
    "lists of numbers": lambda: X.tolist(),
    "generator": lambda: iter([*zip(X, Y, strict=True)]),
    "iterable": Endless,
    "map-style": Counted,
    "loader": lambda: loader(batch_size=4),
    "loader of 3": lambda: loader(batch_size=3),
    "loader of an iterable": lambda: torch.utils.data.DataLoader(
        torch.utils.data.IterableDataset.__new__(type("It", (torch.utils.data.IterableDataset,),
        {"__iter__": lambda s: iter([*zip(X, Y, strict=True)])})), batch_size=4),
    "loader of samples": lambda: torch.utils.data.DataLoader(Counted(), batch_size=None),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_data_of_every_kind(net, tmp_path, kind):
    run = run_of(net, KINDS[kind](), tmp_path / "run.zarr")
    assert_explains(run, net)
    assert run.ids == ([f"d{i}" for i in range(N)] if "dict" in kind else list(range(N)))
    bare = kind in ("array", "tensor", "list", "lists of numbers")
    assert (run.labels is None) if bare else (run.labels.tolist() == Y.tolist())
    assert_explains(whence.dataset.load_run(tmp_path / "run.zarr"), net)


def test_a_loaders_own_batches(net, tmp_path):
    data = Counted()
    run = run_of(net, torch.utils.data.DataLoader(data, batch_size=3), tmp_path / "run.zarr",
                 batch_size=None)  # fmt: skip
    assert (run.batch_size, len(run)) == (3, N)
    assert data.seen == list(range(N))


@pytest.mark.parametrize("kind", ["arrays", "batches", "samples", "loader", "folder"])
def test_keras(tmp_path, kind):
    tf = pytest.importorskip("tensorflow")
    net, x = digits_model("tensorflow"), IMAGES[:N, :, :, None]
    data = tf.data.Dataset.from_tensor_slices((x, Y))
    if kind == "folder":
        folder_of(tmp_path / "in")
        run = run_of(net, tmp_path / "in", tmp_path / "run.zarr",
                     preprocess=Preprocess(colour="grey", channels="last"))  # fmt: skip
        assert run.ids == [f"{i}.png" for i in range(N)]
        np.testing.assert_array_equal(run.answer, whence.explain(net, x, "gradient").answer)
        return
    given = {"arrays": (x, Y), "batches": data.batch(3), "samples": data,
             "loader": torch.utils.data.DataLoader([*zip(x, Y, strict=True)], 4)}[kind]  # fmt: skip
    if kind == "loader":
        given = x
    assert_explains(run_of(net, given, tmp_path / "run.zarr"), net, x)


def folder_of(folder):
    from PIL import Image

    folder.mkdir()
    for i, image in enumerate(IMAGES[:N]):
        Image.fromarray(np.round(image * 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def test_a_folder_of_images(net, tmp_path):
    folder = folder_of(tmp_path / "in")
    (folder / "5.png").write_bytes(b"no picture")
    loaded = whence.load_model("demo:digits", framework="torch")
    run = explain_dataset(loaded, folder, "lrp", out=tmp_path / "run.zarr", progress=False)
    assert run.ids == [f"{i}.png" for i in range(N)]
    (failure,) = run.failures
    assert (failure.index, failure.id, failure.stage) == (5, "5.png", "reading")
    assert "not an image that can be read" in failure.reason
    good = [i for i in range(N) if i != 5]
    x = whence.images.read([folder / f"{i}.png" for i in good], loaded.preprocess).x
    expected = whence.explain(loaded.model, x, "lrp")
    np.testing.assert_allclose(run.attribution[:][good], expected.to_numpy(), rtol=1e-4, atol=1e-6)
    assert np.isnan(run.attribution[5]).all()
    assert run["3.png"].target_names == [str(run.target[3])]
    figure = run.show("3.png")
    written = [t.get_text() for a in figure.axes for t in (*a.texts, a.title, a.yaxis.label)]
    assert "3.png" in str([*written, *(t.get_text() for t in figure.texts)])
    assert len(run._images([3])[0]) == 8
    again = explain_dataset(loaded, str(folder), "lrp", out=tmp_path / "run.zarr", progress=False)
    assert repr(again) == repr(run)
    (folder / "3.png").unlink()
    assert run._images([3]) is None


@pytest.mark.parametrize("target", [3, [*range(10), 4], "label", whence.difference(3, 8)])
def test_targets(net, tmp_path, target):
    run = run_of(net, (X, Y), tmp_path / "run.zarr", target=target)
    wanted = Y.tolist() if target == "label" else target
    e = whence.explain(net, X, "gradient-x-input", target=wanted)
    np.testing.assert_allclose(run.attribution[:], e.to_numpy(), rtol=1e-5, atol=1e-7)
    if isinstance(e.target, str):
        assert run.target == e.target == run[2].target
    else:
        assert run.target.tolist() == e.target.tolist()
    assert run[2:5].target_names == e.target_names[2:5]


def test_an_item_is_an_explanation(net, tmp_path):
    names = [f"digit {i}" for i in range(10)]
    run = run_of(net, X, tmp_path / "run.zarr", "lrp", classes=names)
    whole = whence.explain(net, X, "lrp", classes=names)
    for place in (0, 5, -1):
        e, alone = run[place], whence.explain(net, X[[place]], "lrp", classes=names)
        np.testing.assert_allclose(e.attribution, alone.attribution, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(e.heatmap(), alone.heatmap(), rtol=1e-4, atol=1e-6)
        for name in ("method", "axes", "channels", "target_names", "signed", "reduce", "versions",
                     "model_summary", "layer"):  # fmt: skip
            assert getattr(e, name) == getattr(alone, name), name
        assert e.options == json.loads(json.dumps(alone.options))
        np.testing.assert_allclose(e.gap, alone.gap, rtol=1e-2, atol=1e-6)
    np.testing.assert_allclose(run[2:9:3].output, whole.output[2:9:3], rtol=1e-6)
    assert [e.output[0] for e in run] == run.output.tolist()
    with pytest.raises(IndexError, match=r"item 11 was asked for; .*run\.zarr holds 11"):
        run[11]
    with pytest.raises(UnknownName, match="no item named 'six'"):
        run["six"]
    assert repr(run).startswith(f"DatasetRun by lrp: 11 items in {tmp_path}/run.zarr, ")
    assert "attribution (11, 1, 8, 8), DigitsNet" in repr(run)


def test_others_read_the_store(net, tmp_path):
    run_of(net, X, tmp_path / "run.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(tmp_path / "run.zarr", mode="r")
        names = dict(group.members())
    assert {"attribution_0", "output", "target", "answer", "probability", "gap", "id"} <= set(names)
    assert group["attribution_0"].shape == (N, 1, 8, 8)
    assert group["attribution_0"].chunks == (4, 1, 8, 8)
    said = group.attrs["whence"]["run"]
    assert (said["method"], said["batch_size"], said["data"]["length"]) == (
        "gradient-x-input", 4, N)  # fmt: skip


def test_several_inputs_and_tokens_of_many_lengths(tmp_path):
    class Reads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(20, 3)
            self.fc = torch.nn.Linear(3, 2)

        def forward(self, ids, weight):
            return self.fc((self.embed(ids) * weight[..., None]).sum(1))

    torch.manual_seed(0)
    net, draw = Reads(), np.random.default_rng(0)
    lengths = [3, 5, 3, 2, 9, 9, 4, 3, 12]
    data = [
        {"ids": draw.integers(0, 20, n), "weight": draw.random(n, np.float32), "id": f"s{n}-{i}"}
        for i, n in enumerate(lengths)
    ]
    run = run_of(net, data, tmp_path / "run.zarr")
    assert run.attribution["weight"].shape == (9, 12)
    for i, item in enumerate(data):
        x = {k: v[None] for k, v in item.items() if k != "id"}
        alone = whence.explain(net, x, "gradient-x-input")
        assert set(run[i].attribution) == set(alone.attribution)
        for name in alone.attribution:
            assert run[i].attribution[name].shape == alone.attribution[name].shape
            np.testing.assert_allclose(run[i].attribution[name], alone.attribution[name], rtol=1e-5)
        assert np.isnan(run.attribution["weight"][i, lengths[i] :]).all()
    with pytest.raises(InputError, match="the items differ in shape"):
        run[0:3]
    assert run[4:6].attribution["weight"].shape == (2, 9)


def test_an_item_that_raises_is_passed_by(net, tmp_path):
    def item(i):
        if i in (2, 9):
            raise RuntimeError(f"nothing at {i}")
        return X[i] if i != 6 else np.full_like(X[i], np.nan)

    class Items(list):
        def __getitem__(self, i):
            return item(i)

    out = tmp_path / "run.zarr"
    run = run_of(net, Items(range(N)), out)
    assert [(f.index, f.stage) for f in run.failures] == [
        (2, "reading"), (6, "explaining"), (9, "reading")]  # fmt: skip
    assert run.failures[0].reason == "RuntimeError: nothing at 2"
    assert run.failures[1].reason.startswith("NotFinite: the input has 64 value(s)")
    good = [i for i in range(N) if i not in (2, 6, 9)]
    e = whence.explain(net, X[good], "gradient-x-input")
    np.testing.assert_allclose(run.attribution[:][good], e.to_numpy(), rtol=1e-4, atol=1e-6)
    assert np.flatnonzero(run.finished).tolist() == good and len(list(run)) == len(good)
    assert run.target[6] == -1 and np.isnan(run.output[6])
    with pytest.raises(UnknownName, match=r"no explanation of item 6 \(6\): NotFinite: the input"):
        run[6]
    assert "3 failed, the first: item 2 (2): RuntimeError: nothing at 2" in repr(run)
    with pytest.raises(RuntimeError, match="nothing at 2") as raised:
        run_of(net, Items(range(N)), tmp_path / "other.zarr", on_error="raise")
    assert raised.value.__notes__ == ["item 2 (2), while reading"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_whose_item_raises(net, tmp_path, workers):
    given = torch.utils.data.DataLoader(Counted(wrap=Bad()), batch_size=4, num_workers=workers)
    run = run_of(net, given, tmp_path / "run.zarr")
    assert [(f.index, f.reason) for f in run.failures] == [(5, "ZeroDivisionError: five")]
    assert run.done == N - 1 and run.labels[5] == -1


class Third:
    def __call__(self, i):
        return X[i] if i != 3 else 1 / 0


class Bad:
    def __call__(self, x):
        if np.array_equal(x, X[5]):
            raise ZeroDivisionError("five")
        return torch.from_numpy(x)


def test_a_stream_that_breaks_off_keeps_what_was_done(net, tmp_path):
    def stream(bad):
        for i in range(N):
            if i == bad:
                raise OSError("gone")
            yield X[i]

    with pytest.raises(
        InputError, match=r"the data stopped with OSError: gone\. What was explained"
    ):
        run_of(net, stream(9), tmp_path / "run.zarr")
    run = load_run(tmp_path / "run.zarr")
    assert (len(run), run.complete) == (8, False)
    assert ", not complete, " in repr(run)
    assert_explains(run_of(net, stream(None), tmp_path / "run.zarr"), net)
    # What goes on after an error is not given up.
    run = run_of(net, map(Third(), range(N)), tmp_path / "map.zarr")
    assert [f.index for f in run.failures] == [3] and len(run) == N


def test_nothing_is_done_twice(net, tmp_path):
    data, out = Counted(), tmp_path / "run.zarr"
    run_of(net, data, out)
    first = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    run_of(net, data, out)
    assert data.seen == list(range(N))
    assert first == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    (out / "parts/000000/000000001.json").unlink()
    assert_explains(run_of(net, data, out), net)
    assert data.seen == [*range(N), 4, 5, 6, 7]


def smooth(**options):
    from whence.methods.smoothed import SmoothGrad

    return SmoothGrad(n=4, rows=4, **options)


def knows_ids():
    import inspect

    return "sample_ids" in inspect.signature(whence.explain).parameters


@pytest.mark.skipif(not knows_ids(), reason="explain takes no sample_ids")
def test_draws_belong_to_samples_whatever_the_batch(net, tmp_path):
    runs = {size: run_of(net, X, tmp_path / f"{size}.zarr", smooth(), batch_size=size, seed=5)
            for size in (1, 4, 11)}  # fmt: skip
    assert runs[1].options["seed"] == 5
    for size in (4, 11):
        np.testing.assert_allclose(
            runs[size].attribution[:], runs[1].attribution[:], rtol=1e-4, atol=1e-6
        )
    other = run_of(net, X, tmp_path / "other.zarr", smooth(), seed=6)
    assert np.abs(other.attribution[:] - runs[1].attribution[:]).max() > 1e-3
    names = run_of(net, {"x": X, "id": [str(i) for i in range(N)]}, tmp_path / "n.zarr", smooth())
    assert np.abs(names.attribution[:] - runs[1].attribution[:]).max() > 1e-3


def test_progress(net, tmp_path):
    told = []
    bad = X.copy()
    bad[5] = np.nan
    explain_dataset(net, bad, "gradient", out=tmp_path / "run.zarr", batch_size=4,
                    progress=lambda *words: told.append(words))  # fmt: skip
    assert told == [(4, N, ""), (8, N, "1 failed"), (11, N, "1 failed")]


def test_a_part_is_a_function_of_itself_and_the_seed(net):
    """In any order, and alone: what a distributed engine needs."""
    from whence.dataset.sources import Arrays
    from whence.methods.catalogue import make

    work, source = Work(net, make("lrp", {})), Arrays(X)
    there = [explain_part(work, p) for p in source.parts(4, lambda n: False)]
    back = [explain_part(work, source.part(n, 4 * n, min(4, N - 4 * n))) for n in (2, 1, 0)]
    for a, b in zip(there, reversed(back), strict=True):
        for name, pieces in a.pieces.items():
            np.testing.assert_array_equal(pieces[0][1], b.pieces[name][0][1])


def test_the_seed_of_the_draws_is_not_where_relevance_starts(net, tmp_path):
    """LRP has a ``seed`` of its own, which is no number."""
    run = explain_dataset(net, X, "lrp", out=tmp_path / "run.zarr", seed=3)
    alone = whence.explain(net, X[:2], "lrp")
    np.testing.assert_allclose(run[:2].attribution, alone.to_numpy(), rtol=1e-5, atol=1e-7)


def test_memory_does_not_grow_with_the_data(net, tmp_path):
    import weakref

    alive, most = weakref.WeakSet(), 0

    class Sample(np.ndarray):
        pass

    def stream():
        nonlocal most
        for i in range(120):
            sample = X[i % N].copy().view(Sample)
            alive.add(Holder(sample))
            most = max(most, len(alive))
            yield sample

    class Holder:
        def __init__(self, sample):
            sample.holder = self

    run = run_of(net, stream(), tmp_path / "run.zarr")
    assert len(run) == 120 and isinstance(run, DatasetRun)
    assert most <= 3 * 4
