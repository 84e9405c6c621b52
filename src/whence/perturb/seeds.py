"""Random numbers that belong to a sample and a draw, whatever the chunk or batch they come in.

Each (seed, sample id, draw, stream) names a generator of its own, so that a sample gets the same
numbers alone and in any company, and no global random state is read or written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import OptionError

__all__ = ["Seeds"]


class Seeds:
    """The generators of one run.

    seed: a whole number. sample_ids: one a sample, whole numbers or strings (a file's name);
    default 0, 1, 2... Raises OptionError for another seed, or ids of another number or kind.
    """

    def __init__(self, seed: int, sample_ids: Sequence[Any] | None, samples: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise OptionError(f"seed is a whole number, 0 or more; got {seed!r}")
        ids = list(range(samples)) if sample_ids is None else list(sample_ids)
        if len(ids) != samples:
            raise OptionError(f"{len(ids)} sample_ids were given for {samples} samples")
        self.seed = int(seed)
        self.ids = ids
        self._keys = [_key(self.seed, i) for i in ids]

    def generator(self, sample: int, draw: int = 0, stream: int = 0) -> np.random.Generator:
        """The generator of one draw of the sample at that place in the batch.

        stream: tells independent uses within one draw apart. One generator gives 2**128 numbers
        before it would meet the next draw's.
        """
        # The two upper words of the counter are the draw's own, so that no two draws overlap.
        counter = np.array([0, 0, stream, draw], np.uint64)
        return np.random.Generator(np.random.Philox(key=self._keys[sample], counter=counter))


def _key(seed: int, sample_id: Any) -> np.ndarray:
    whole = isinstance(sample_id, (int, np.integer)) and not isinstance(sample_id, bool)
    if whole and sample_id >= 0:
        words = [0, int(sample_id)]
    elif isinstance(sample_id, str):
        digest = hashlib.blake2b(sample_id.encode(), digest_size=8).digest()
        words = [1, int.from_bytes(digest, "big")]
    else:
        raise OptionError(
            f"a sample id is a whole number, 0 or more, or a string; got {sample_id!r}"
        )
    return np.random.SeedSequence([seed, *words]).generate_state(2, np.uint64)
