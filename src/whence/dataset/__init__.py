"""A whole data set explained, into a Zarr store that a kill at any point leaves ready to go on.

``sources`` cuts data of any kind into parts; ``work`` explains one part, a function of the part and
the seed alone; ``store`` writes it, data first and then its record; ``run`` reads it back.
"""

from __future__ import annotations

from .explain import explain_dataset
from .records import Failure
from .run import DatasetRun, load_run

__all__ = ["DatasetRun", "Failure", "explain_dataset", "load_run"]
