"""The closed vocabulary of operations that a tape is written in.

Rules attach to these kinds, never to modules: a functional ``relu``, an ``nn.ReLU`` and a fused
``Relu6`` node are all ``Op.RELU``. There is no code here, only what each kind promises. A kind
without a row in a rule table is an error (``MissingRule``), never a silent gradient.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["CONTRACTS", "Contract", "Op"]


class Op(StrEnum):
    """What an operation on the tape is, whatever framework and spelling it came from."""

    INPUT = "input"
    DENSE = "dense"
    CONV = "conv"
    AFFINE = "affine"
    ADD = "add"
    MUL = "mul"
    MATMUL = "matmul"
    RELU = "relu"
    ACTIVATION = "activation"
    SOFTMAX = "softmax"
    NORM = "norm"
    MAXPOOL = "maxpool"
    AVGPOOL = "avgpool"
    SHAPE = "shape"
    EMBEDDING = "embedding"
    OPAQUE = "opaque"


class Contract(NamedTuple):
    """What a kind promises to the rules that are written for it."""

    operands: str
    """The tracked operands, the ones that depend on the model's input."""
    params: str
    """Constants that a rule may read, by name, in ``node.params``."""
    linear_in: str
    """In which tracked operands the op is linear (affine, where there is an offset)."""
    meaning: str


CONTRACTS: dict[Op, Contract] = {
    Op.INPUT: Contract("none", "", "-", "an array that the caller gave"),
    Op.DENSE: Contract(
        "x", "weight, bias", "x", "matrix product of x with constants, plus a constant"
    ),
    Op.CONV: Contract(
        "x",
        "weight, bias",
        "x",
        "convolution of any dimension, grouped, dilated, transposed, plus a constant",
    ),
    Op.AFFINE: Contract(
        "x",
        "scale, shift",
        "x",
        "elementwise x * scale + shift by constants that broadcast: inference batch-norm, "
        "adding or multiplying a constant, negation",
    ),
    Op.ADD: Contract(
        "two or more", "", "each", "sum of tracked operands with fixed signs, broadcast"
    ),
    Op.MUL: Contract(
        "two", "", "each alone", "elementwise product, or quotient (attrs['divide']), broadcast"
    ),
    Op.MATMUL: Contract("two", "", "each alone", "contraction of two tracked operands"),
    Op.RELU: Contract("x", "", "-", "rectifiers: ReLU, ReLU6, leaky, parametric, clamps at zero"),
    Op.ACTIVATION: Contract("x", "", "-", "any other elementwise function of one operand"),
    Op.SOFTMAX: Contract("x", "", "-", "softmax along attrs['axis'] (attrs['log'] for its log)"),
    Op.NORM: Contract(
        "x",
        "scale, shift",
        "-",
        "layer, group, instance or RMS normalisation by statistics of x itself",
    ),
    Op.MAXPOOL: Contract("x", "", "-", "selection of extreme values: pooling, max, min, top-k"),
    Op.AVGPOOL: Contract(
        "x",
        "",
        "x",
        "averages and sums of one operand with constant weights: pooling, mean, sum, resizing",
    ),
    Op.SHAPE: Contract(
        "one or more",
        "",
        "each",
        "moves data: reshape, transpose, slice, pad, concatenate, gather, scatter, where, cast",
    ),
    Op.EMBEDDING: Contract(
        "none (whole numbers)", "weight", "-", "rows of a table, chosen by whole-number input"
    ),
    Op.OPAQUE: Contract(
        "one or more", "", "-", "anything else: its gradient is known, its structure is not"
    ),
}
