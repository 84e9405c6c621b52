"""The catalogue: each method by name, what it answers, needs, promises, costs, and its paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

from ..errors import OptionError, WhenceError, unknown
from .base import Method
from .gradients import Gradient, GradientTimesInput, Saliency, SensitivityAnalysis
from .lrp import LRP, DeepTaylor
from .taylor import SimpleTaylor
from .walks import Deconvolution, GuidedBackpropagation

__all__ = ["CATALOGUE", "MethodRow", "MethodTable", "make", "methods"]


@dataclass(frozen=True)
class MethodRow:
    """One method, as ``whence.methods()`` shows it."""

    name: str
    home: type[Method] | str
    """The class, or its module and name ("averaged:IntegratedGradients"), imported when wanted."""
    question: str
    needs: str
    promises: str
    cost: str
    """How many of ``unit``, for one sample at the default options."""
    paper: str
    """Keys in docs/bibliography.bib."""
    unit: str = "gradients"
    """"gradients", each a forward and a backward call, or "forward calls" alone."""
    frameworks: tuple[str, ...] = ("torch", "tensorflow")

    @property
    def make(self) -> type[Method]:
        """The method's class."""
        if isinstance(self.home, str):
            module, _, name = self.home.partition(":")
            found: type[Method] = getattr(import_module(f".{module}", __package__), name)
            return found
        return self.home

    @property
    def price(self) -> str:
        """The cost with its unit.

        Example:
            >>> methods()[0].price
            '1 gradient'
        """
        number, _, condition = self.cost.partition(" ")
        unit = self.unit[:-1] if number == "1" else self.unit
        return f"{number} {unit} {condition}".rstrip()


class MethodTable(tuple[MethodRow, ...]):
    """The methods; prints as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        head = ("method", "question", "needs", "promises", "cost", "paper")
        lines = [head] + [(r.name, r.question, r.needs, r.promises, r.price, r.paper) for r in self]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    __repr__ = __str__


CATALOGUE: dict[str, MethodRow] = {
    row.name: row
    for row in (
        MethodRow(
            "gradient",
            Gradient,
            "which change would move the answer?",
            "a gradient",
            "exact df/dx",
            "1",
            "baehrens2010",
        ),
        MethodRow(
            "saliency",
            Saliency,
            "what does the answer react to?",
            "a gradient",
            "|df/dx|",
            "1",
            "simonyan2013",
        ),
        MethodRow(
            "sensitivity-analysis",
            SensitivityAnalysis,
            "what does the answer react to, squared?",
            "a gradient",
            "(df/dx)^2",
            "1",
            "montavon2018",
        ),
        MethodRow(
            "gradient-x-input",
            GradientTimesInput,
            "what does each element contribute?",
            "a gradient",
            "adds up without biases",
            "1",
            "shrikumar2017, ancona2018",
        ),
        MethodRow(
            "simple-taylor",
            SimpleTaylor,
            "what makes the answer differ from a root's?",
            "a gradient",
            "adds up to first order; remainder reported",
            "2 (50 with a search)",
            "montavon2018",
        ),
        MethodRow(
            "deconvolution",
            Deconvolution,
            "which pattern excited the unit?",
            "rectifiers",
            "no sum; nearly the same for every class",
            "1",
            "zeiler2014",
        ),
        MethodRow(
            "guided-backpropagation",
            GuidedBackpropagation,
            "which pattern excited the unit, sharply?",
            "rectifiers",
            "no sum; nearly the same for every class",
            "1",
            "springenberg2015",
        ),
        MethodRow(
            "lrp",
            LRP,
            "where did the answer come from?",
            "a rule for every op",
            "adds up but for what the ledger lists",
            "1.2 (2 with z-plus)",
            "bach2015, achtibat2024",
        ),
        MethodRow(
            "deep-taylor",
            DeepTaylor,
            "which inputs raised the answer?",
            "a net of ReLUs",
            "adds up, no negative relevance",
            "2",
            "montavon2017",
        ),
        MethodRow(
            "deeplift",
            "deeplift:DeepLIFT",
            "what makes the answer differ from a reference's?",
            "a rule for every op",
            "adds up to f(x) - f(reference)",
            "2.4",
            "shrikumar2017",
        ),
        MethodRow(
            "deepshap",
            "deeplift:DeepSHAP",
            "the same, against a set of references?",
            "a rule for every op",
            "adds up to f(x) - mean f(set)",
            "2.4 a reference",
            "shrikumar2017, lundberg2017",
        ),
        MethodRow(
            "integrated-gradients",
            "averaged:IntegratedGradients",
            "what makes the answer differ from a baseline's?",
            "a gradient",
            "adds up to f(x) - f(baseline)",
            "64 or more, to a gap of 0.001",
            "sundararajan2017, kapishnikov2021, xu2020, yang2023",
        ),
        MethodRow(
            "expected-gradients",
            "averaged:ExpectedGradients",
            "the same, against a background of inputs?",
            "a gradient",
            "adds up to f(x) - mean f(background) on average",
            "200",
            "erion2021",
        ),
        MethodRow(
            "smoothgrad",
            "smoothed:SmoothGrad",
            "which change moves the answer, also near x?",
            "what it averages needs",
            "less noise as n^-1/2",
            "50",
            "smilkov2017, hooker2019, adebayo2018",
        ),
        MethodRow(
            "occlusion",
            "perturbed:Occlusion",
            "what is each place needed for?",
            "nothing",
            "exactly f(x) - f(x covered), by window",
            "225",
            "zeiler2014",
            "forward calls",
        ),
        MethodRow(
            "rise",
            "masked:RISE",
            "how good is the answer with a place visible?",
            "nothing",
            "unbiased, error as n^-1/2",
            "1000",
            "petsiuk2018",
            "forward calls",
        ),
        MethodRow(
            "sobol",
            "masked:Sobol",
            "which share of the answer's variance is a region's?",
            "SciPy",
            "total Sobol indices, error as n^-1 at best",
            "2112",
            "jansen1999, fel2021",
            "forward calls",
        ),
        MethodRow(
            "hsic",
            "masked:HSIC",
            "does the answer depend on a region at all?",
            "SciPy",
            "0 where independent",
            "1024",
            "novello2022",
            "forward calls",
        ),
        MethodRow(
            "lime",
            "coalitional:LIME",
            "which regions would a linear model use here?",
            "regions",
            "exact for linear f",
            "1000",
            "ribeiro2016",
            "forward calls",
        ),
        MethodRow(
            "kernel-shap",
            "coalitional:KernelSHAP",
            "what is each region's fair share?",
            "regions",
            "adds up to f(x) - f(baseline)",
            "1024",
            "lundberg2017, covert2021",
            "forward calls",
        ),
        MethodRow(
            "shapley-sampling",
            "coalitional:ShapleySampling",
            "what is each region's fair share, by random orders?",
            "regions",
            "adds up; error reported",
            "1576",
            "castro2009",
            "forward calls",
        ),
        MethodRow(
            "exact-shapley",
            "coalitional:ExactShapley",
            "what is each region's fair share, exactly?",
            "16 regions at most",
            "adds up; Shapley's axioms",
            "512",
            "shapley1953",
            "forward calls",
        ),
    )
}


def methods() -> MethodTable:
    """Every attribution method: its name, the question it answers, needs, promises, cost and paper.

    Example:
        >>> import whence
        >>> whence.methods()[0].name
        'gradient'
    """
    return MethodTable(CATALOGUE.values())


def make(method: Any, options: Mapping[str, Any]) -> Method:
    """A method object from its name and options, or the object itself.

    Raises UnknownName for a name or option that is not known, OptionError for a wrong value.
    """
    if isinstance(method, Method):
        if options:
            raise OptionError(
                f"options {sorted(options)} were given beside {method!r}; give them to the object "
                "itself"
            )
        return method
    if isinstance(method, type) and issubclass(method, Method):
        return _build(method, method.name, options)
    name = "lrp" if method == "auto" else method
    if not isinstance(name, str) or name not in CATALOGUE:
        raise unknown("method", name, CATALOGUE, "whence.methods() lists them.")
    return _build(CATALOGUE[name].make, name, options)


def _build(kind: type[Method], name: str, options: Mapping[str, Any]) -> Method:
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
    try:
        return kind(**options)
    except WhenceError:
        raise
    except TypeError as error:
        raise OptionError(f"{name}: {error}") from error
