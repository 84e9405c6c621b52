"""The books of a relevance walk: what came into each operation, what went on, what was absorbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import MissingFramework

__all__ = ["Entry", "Leak", "Ledger", "doors"]

ASKED = ("through", "around")
"""Reasons that are no loss: relevance was to pass only some channels, or was read at a layer that
other ways lead around."""


class _Doors:
    """What can be done with the books, put here by the package: data imports no drawing code."""

    figure: Callable[..., Any]


doors = _Doors()


@dataclass(frozen=True)
class Entry:
    """One operation, or one layer's operations together.

    Amounts are per sample, (batch,), in units of the explained output.
    """

    index: int
    layer: str
    op: str
    kind: str
    rule: str
    relevance_in: np.ndarray
    relevance_out: np.ndarray
    absorbed: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def unexplained(self) -> np.ndarray:
        """In minus out minus absorbed: rounding, if the rule is right."""
        return self.relevance_in - self.relevance_out - sum(self.absorbed.values(), np.zeros(()))


@dataclass(frozen=True)
class Leak:
    """The operation that absorbed the largest share of the seed."""

    entry: Entry
    reason: str
    share: float
    """Part of the seed, as a positive fraction: the largest over the samples."""
    sample: int = 0
    """The sample that lost that much."""
    samples: int = 1
    """Of how many."""

    def __str__(self) -> str:
        place = self.entry.layer or self.entry.op
        who = f"sample {self.sample} loses" if self.samples > 1 else "loses"
        how = f"{self.entry.op}, {self.entry.rule}"
        return f"{who} {self.share:.0%} at {place} ({how}): {self.reason}"


@dataclass(frozen=True)
class Ledger:
    """Where relevance went, op by op, from the output back to the input.

    ``rows`` run in the order of the walk, output first. What the seed held equals what arrived plus
    all that was absorbed; ``balance`` says how exactly.
    """

    rows: Sequence[Entry]
    seed: np.ndarray
    """What the walk started with, (batch,)."""
    total: np.ndarray
    """What arrived where the attribution was read (inputs, embeddings or layer), (batch,)."""

    @property
    def balance(self) -> np.ndarray:
        """How exactly the books close, (batch,): zero but for rounding if every rule keeps them.

        |seed - arrived - absorbed|, over |seed| or the most that came to any operation, if that is
        more.
        """
        absorbed = sum((sum(r.absorbed.values(), np.zeros(())) for r in self.rows), np.zeros(()))
        left = self.seed - self.total - absorbed
        scale = np.abs(self.seed)
        for row in self.rows:
            scale = np.maximum(scale, np.abs(row.relevance_in))
        return np.abs(left) / np.maximum(scale, np.finfo(np.float32).tiny)

    def absorbed(self) -> dict[str, np.ndarray]:
        """By reason, summed over all operations, (batch,) each."""
        return _added(self.rows)

    def by_layer(self) -> Ledger:
        """The same books with one row a layer.

        In is what came to the layer's last operation. Out is that less what its own operations
        absorbed: what passes between them, or through layers inside it, is not counted again.
        """
        merged: dict[str, list[Entry]] = {}
        for row in self.rows:
            merged.setdefault(row.layer, []).append(row)
        return Ledger(
            [_merge(layer, rows) for layer, rows in merged.items()], self.seed, self.total
        )

    def worst(self, sample: int | None = None) -> Leak | None:
        """The operation and reason that absorbed most of the seed; None if nothing was absorbed.

        sample: which one; None takes the sample that lost most. What was asked for (``through=``,
        reading at a layer) is no loss.
        """
        count = len(self.seed)
        scale = np.maximum(np.abs(self.seed), 1e-12)
        worst: Leak | None = None
        for row in self.rows:
            for reason, amount in row.absorbed.items():
                if reason in ASKED:
                    continue
                shares = np.broadcast_to(np.abs(amount) / scale, (count,))
                which = int(np.argmax(shares)) if sample is None else sample
                if worst is None or shares[which] > worst.share:
                    worst = Leak(row, reason, float(shares[which]), which % count, count)
        return worst

    def show(self, **options: Any) -> Any:
        """A waterfall from the output to the input, layer by layer: a matplotlib figure.

        options: sample (a number, or "mean"), bars and title, as for ``whence.render.draw_ledger``.
        Needs matplotlib.
        """
        return doors.figure(self, **options)

    def to_dicts(self, sample: int | None = None) -> list[dict[str, Any]]:
        """One dict a row: index, layer, op, kind, rule, in, out and each reason.

        sample: which one; None sums over the batch.
        """

        def number(array: np.ndarray) -> float:
            each = np.broadcast_to(array, self.seed.shape)
            return float(np.sum(each) if sample is None else each[sample])

        return [
            {"index": r.index, "layer": r.layer, "op": r.op, "kind": r.kind, "rule": r.rule,
             "in": number(r.relevance_in), "out": number(r.relevance_out),
             **{reason: number(a) for reason, a in r.absorbed.items()}}
            for r in self.rows
        ]  # fmt: skip

    def to_frame(self, sample: int | None = None) -> Any:
        """The rows as a pandas DataFrame. Needs pandas."""
        try:
            import pandas  # type: ignore[import-untyped, unused-ignore]
        except ImportError as error:
            raise MissingFramework("a data frame needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.to_dicts(sample)).fillna(0.0)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.rows)

    def __str__(self) -> str:
        head = f"{'layer':<28} {'op':<22} {'in':>11} {'out':>11}  absorbed"
        lines = [head]
        for row in self.to_dicts():
            reasons = {k: v for k, v in row.items() if k not in _COLUMNS}
            kept = ", ".join(f"{k} {v:.3g}" for k, v in reasons.items() if abs(v) > 1e-12)
            numbers = f"{row['in']:>11.4g} {row['out']:>11.4g}"
            lines.append(f"{row['layer'][:28]:<28} {row['op'][:22]:<22} {numbers}  {kept}".rstrip())
        lines.append(
            f"seed {self.seed.sum():.6g}, arrived {self.total.sum():.6g}, "
            f"balance {self.balance.max():.2g}"
        )
        return "\n".join(lines)


_COLUMNS = ("index", "layer", "op", "kind", "rule", "in", "out")


def _added(rows: Sequence[Entry]) -> dict[str, np.ndarray]:
    """What was absorbed by reason, over several operations."""
    found: dict[str, np.ndarray] = {}
    for row in rows:
        for reason, amount in row.absorbed.items():
            found[reason] = found.get(reason, np.zeros(())) + amount
    return found


def _merge(layer: str, rows: Sequence[Entry]) -> Entry:
    absorbed = _added(rows)
    rules = list(dict.fromkeys(r.rule for r in rows))
    # Relevance may leave the layer and come back (a residual block), so out is not the last row's.
    out = rows[0].relevance_in - sum((r.relevance_in - r.relevance_out for r in rows), np.zeros(()))
    return Entry(
        min(r.index for r in rows), layer, "+".join(dict.fromkeys(r.op for r in reversed(rows))),
        "+".join(dict.fromkeys(r.kind for r in reversed(rows))), ", ".join(rules),
        rows[0].relevance_in, out, absorbed,
    )  # fmt: skip
