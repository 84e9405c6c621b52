"""Data that come from a place of their own: folders of images, torch's and TensorFlow's loaders.

Nothing is imported for them: a loader that is there has been imported by whoever made it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os.path import commonpath
from pathlib import Path
from typing import Any

from ..errors import InputError, OptionError
from ..frameworks.base import Expectation
from ..images import Images, Preprocess, decode
from ..images.reading import files_of
from .items import leaves, row_of, rows_of
from .parts import Batch, Broken, Part, cut
from .sources import (
    Indexed,
    Skip,
    Source,
    Stream,
    of_anything,
    of_arrays,
    of_images,
    paths_in,
)

__all__ = ["source_of"]


def source_of(
    data: Any, preprocess: Preprocess | None, wants: Expectation, batched: bool | None
) -> Source:
    """The source for any kind of data.

    preprocess: for files. wants: what the model says of its input, to tell batches from samples.
    batched: overrides that. Raises InputError, OptionError, FileError.
    """
    if isinstance(data, Images):
        return of_images(data)
    paths = paths_in(data)
    if paths is not None:
        return Pictures(paths, preprocess or Preprocess())
    if _is(data, "torch.utils.data", "DataLoader"):
        return Loader(data)
    if _is(data, "tensorflow.python.data", "DatasetV2"):
        return Stream(data, _comes_in_batches(data, wants, batched), "tf.data")
    found = of_arrays(data)
    if found is None:
        found = Stream(data, True) if batched else of_anything(data)
    return found


def _is(thing: Any, package: str, name: str) -> bool:
    return any(c.__name__ == name and c.__module__.startswith(package) for c in type(thing).__mro__)


class Pictures(Indexed):
    """Image files, read one at a time; ids are their paths below the folder that holds them all."""

    kind = "images"

    def __init__(self, paths: Sequence[Any], preprocess: Preprocess) -> None:
        self.files = [file for path in paths for file in files_of(str(path))]
        for file in self.files:
            if not file.exists():
                decode(file)  # which says what is there instead
        whole = [str(file.absolute()) for file in self.files]
        self.folder = Path(commonpath([str(Path(w).parent) for w in whole]))
        names = [Path(w).relative_to(self.folder).as_posix() for w in whole]
        self.preprocess = preprocess
        super().__init__(_Decoded(self.files, preprocess), names.__getitem__)

    def classified(self) -> dict[str, Any]:
        """The folder too, so that pictures can be shown under their maps."""
        return {**super().classified(), "folder": str(self.folder)}


class _Decoded:
    def __init__(self, files: Sequence[Path], preprocess: Preprocess) -> None:
        self.files, self.preprocess = files, preprocess

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        return self.preprocess(decode(self.files[index]).pixels)


class Loader(Source):
    """A torch ``DataLoader``, in its own batches.

    Where it goes through a map-style data set without workers, finished parts are not read again;
    and where a batch raises, its items are tried one by one.
    """

    kind = "DataLoader"

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        sampler = type(getattr(loader, "sampler", None)).__name__
        if "Random" in sampler:
            raise OptionError(
                f"the DataLoader shuffles ({sampler}): the run could not be resumed, for each "
                "run would see another order. Make it with shuffle=False"
            )
        self.batches: Any = getattr(loader, "batch_sampler", None)
        self.dataset: Any = getattr(loader, "dataset", None)
        endless = any(c.__name__ == "IterableDataset" for c in type(self.dataset).__mro__)
        self.mapped = self.batches is not None and not endless
        self.size = getattr(loader, "batch_size", None)
        self.length = None
        if self.mapped and hasattr(loader.sampler, "__len__") and self.size:
            count = len(loader.sampler)
            self.length = count - count % self.size if loader.drop_last else count

    def parts(self, size: int, skip: Skip) -> Iterator[Part]:
        """Its batches, or, where another size was asked for, their items in that many."""
        if not self.mapped or self.loader.num_workers or size != self.size:
            yield from cut(self._stream(), size)
            return
        for number, indices in enumerate(self.batches):
            if skip(number):
                yield Part(number, number * size, len(indices))
                continue
            yield from cut(self._read(indices), size, number)

    def _stream(self) -> Iterator[Any]:
        stream = iter(self.loader)
        known = iter(self.batches) if self.mapped else None
        while True:
            indices = next(known, None) if known is not None else None
            try:
                item = next(stream)
            except StopIteration:
                return
            except Exception as error:
                if indices is None:
                    raise InputError(
                        f"the DataLoader stopped with {type(error).__name__}: {error}. What was "
                        "explained before is kept"
                    ) from error
                yield from self._one_by_one(indices)
                continue
            yield self._batch(item)

    def _batch(self, item: Any) -> Any:
        if getattr(self.loader, "batch_size", None) is None and self.batches is None:
            return row_of(tuple(item) if isinstance(item, list) else item)
        return Batch(*rows_of(item))

    def _read(self, indices: Sequence[int]) -> Iterator[Any]:
        try:
            batch = self._batch(self.loader.collate_fn([self.dataset[i] for i in indices]))
        except Exception:
            yield from self._one_by_one(indices)
            return
        yield batch

    def _one_by_one(self, indices: Sequence[int]) -> Iterator[Any]:
        for i in indices:
            try:
                batch = self._batch(self.loader.collate_fn([self.dataset[i]]))
            except Exception as error:
                yield Broken(error)
                continue
            yield batch


def _comes_in_batches(data: Any, wants: Expectation, batched: bool | None) -> bool:
    """Whether a tf.data.Dataset gives batches rather than samples."""
    if batched is not None:
        return batched
    spec = data.element_spec
    first = spec[0] if isinstance(spec, tuple) else spec
    if isinstance(first, dict) and "x" in first:
        first = first["x"]
    shapes = [leaf.shape for leaf in leaves(first) if hasattr(leaf, "shape")]
    if not shapes or shapes[0].rank is None:
        raise InputError(
            "the tf.data.Dataset does not say the shape of its elements, so that samples cannot be "
            "told from batches: give batched=True or batched=False"
        )
    rank = shapes[0].rank
    wanted = 2 if wants.tokens else wants.rank
    if wanted is not None and rank in (wanted, wanted - 1):
        return bool(rank == wanted)
    return rank > 1 and shapes[0][0] is None
