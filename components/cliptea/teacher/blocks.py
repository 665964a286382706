"""Processes blocks of views: read, encode with CLIP, cluster and write. All stages run at the same time.

CLIP does not wait at the end of a block: it goes on with the next block while the last one is written.

Shape legend: B views of a batch, C crop, D joint width, g tokens per side.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from cliptea import device
from cliptea.config import Config
from cliptea.data.ahead import ahead
from cliptea.data.records import LABEL, read_view, record_name
from cliptea.data.sample import decode_labels
from cliptea.data.shard_sets import ShardEntry
from cliptea.data.shard_writer import ShardWriter, found_shards
from cliptea.data.shards import ShardReader
from cliptea.data.views import choose_view, cut_labels
from cliptea.errors import NotFinite
from cliptea.manifest import StoredObject
from cliptea.method.plm import IGNORE, ignored_tokens
from cliptea.method.regions import region_maps
from cliptea.storage import Store
from cliptea.teacher.clip import Teacher, open_teacher
from cliptea.teacher.outputs import MadeBlock, ViewOutput

__all__ = ["BLOCK", "BlockMaker", "Job"]

BLOCK = 1024  # views, with 3 MiB of CLS tokens of 512 numbers; a killed worker loses at most one block
Item = TypeVar("Item")


class Job(NamedTuple):
    """The description of the work for every worker. It can be pickled."""

    store: Store
    config: Config
    images: Mapping[str, StoredObject]  # objects of the train shards
    split: str  # fingerprint of the train shards
    outputs: tuple[ViewOutput, ...]  # the outputs to compute
    dense: Mapping[str, StoredObject] | None  # stored dense tokens for computing region maps; None: CLIP has to run
    weights: str  # of CLIP, as for `open_teacher`


class Tokens(NamedTuple):
    """Teacher tokens of a batch, on the device that computed them."""

    names: list[str]
    cls_BD: Tensor | None  # float32; None if the dense tokens come from the store
    dense_BDgg: Tensor  # float16, as they are stored
    ignored_Bgg: Tensor  # bool


class OpenBlock(NamedTuple):
    """A block while it is computed. Outputs that exist have no writer."""

    made: MadeBlock
    views: range
    writers: dict[ViewOutput, ShardWriter]


class BlockMaker:
    """Computes blocks in one process.

    Memory: 17 decoded views, 4 batches of tokens, and for each output at most three times `data.shard_mib`. Stored
    dense tokens take another 100 MiB.
    """

    def __init__(self, job: Job) -> None:
        self.job, self._where = job, device.best()
        self._config, self._seed = job.config.teacher, job.config.data.seed
        self._images = ShardReader(job.store, job.images, "train")
        self._dense = None if job.dense is None else ShardReader(job.store, job.dense, "dense")
        self.total = len(self._images) * self._config.views

    @property
    def blocks(self) -> list[range]:
        """The views of each block."""
        return [range(start, min(start + BLOCK, self.total)) for start in range(0, self.total, BLOCK)]

    @cached_property
    def _teacher(self) -> Teacher:
        device.prepare()
        return open_teacher(self.job.weights, self._config)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (D, g, g) of the teacher's dense tokens."""
        return self._teacher.dim, *self._teacher.grid

    def make(self, blocks: Mapping[int, range], tell: Callable[[int], None]) -> list[MadeBlock]:
        """Compute the missing outputs of blocks.

        Args:
            blocks: the views of each block by its number.
            tell: called with the number of views that are done since the last call.
        """
        made = []
        for block, tokens in ahead(_write, self._batches(blocks), threads=1):
            if tokens is not None:
                tell(len(tokens.names))
                continue
            made.append(block.made)
            if not block.writers:
                tell(len(block.views))
        return made

    def _batches(self, blocks: Mapping[int, range]) -> Iterator[tuple[OpenBlock, Tokens | None]]:
        """The tokens of each block in batches, and None at the end of the block."""
        for number, views in blocks.items():
            block = self._open(number, views)
            if block.writers:
                batches = self._encoded(views) if self._dense is None else self._stored(self._dense, views)
                yield from ((block, tokens) for tokens in batches)
            yield block, None

    def _open(self, number: int, views: range) -> OpenBlock:
        made, writers = MadeBlock(number=number), {}
        for output in self.job.outputs:
            folder = f"{output.folder}/{number:05d}"
            found = _whole(self.job.store, folder, len(views), output.clustering is not None)
            if found is None:
                limit = self.job.config.data.shard_mib << 20
                writers[output], made.regions[output.folder] = ShardWriter(self.job.store, folder, limit), 0
            else:
                made.shards[output.folder], made.regions[output.folder] = found
        return OpenBlock(made, views, writers)

    def _encoded(self, views: range) -> Iterator[Tokens]:
        """Compute tokens with CLIP, in bfloat16 on a GPU."""
        amp = torch.autocast(self._where.type, torch.bfloat16, enabled=self._where.type == "cuda")
        for batch in _batched(ahead(self._view, views), self._config.batch_size):
            names, cut = zip(*batch, strict=True)
            images_BCC3, labels_BCC, valid_BCC = (
                torch.from_numpy(np.stack(part)).to(self._where) for part in zip(*cut, strict=True)
            )
            with amp:
                cls_BD, dense_BDgg = self._teacher.tokens(images_BCC3.permute(0, 3, 1, 2), valid_BCC)
            ignored_Bgg = ignored_tokens(labels_BCC, valid_BCC, self._teacher.grid)
            yield Tokens(list(names), cls_BD, dense_BDgg.half(), ignored_Bgg)

    def _stored(self, dense: ShardReader, views: range) -> Iterator[Tokens]:
        """Read stored tokens. Only the labels of the images are read."""
        both = zip(ahead(self._labels, views), dense.stream("npy", views.start, views.stop), strict=True)
        for batch in _batched(both, self._config.batch_size):
            names, labels, valid = zip(*(cut for cut, _ in batch), strict=True)
            arrays = [np.load(io.BytesIO(data), allow_pickle=False) for _, data in batch]
            dense_BDgg, labels_BCC, valid_BCC = (
                torch.from_numpy(np.stack(part)).to(self._where) for part in (arrays, labels, valid)
            )
            ignored_Bgg = ignored_tokens(labels_BCC, valid_BCC, (dense_BDgg.shape[2], dense_BDgg.shape[3]))
            yield Tokens(list(names), None, dense_BDgg, ignored_Bgg)

    def _view(self, view: int):
        image, number = divmod(view, self._config.views)
        cut = read_view(self._images, image, number, self._config, self._seed)
        return record_name(self._images.name(image), number), cut

    def _labels(self, view: int) -> tuple[str, np.ndarray, np.ndarray]:
        image, number = divmod(view, self._config.views)
        name = self._images.name(image)
        labels = decode_labels(self._images.read(image, LABEL), name)
        chosen = choose_view(labels, name, number, self._config, self._seed)
        return record_name(name, number), cut_labels(labels, chosen), chosen.valid


def _write(item: tuple[OpenBlock, Tokens | None]) -> tuple[OpenBlock, Tokens | None]:
    """Append a batch to the shards of each output, and count the regions. At the end of a block, store its shards.

    Raises:
        NotFinite: a token is NaN or infinite; the error names the view.
    """
    (made, _, writers), tokens = item
    if tokens is None:
        for output, writer in writers.items():
            made.shards[output.folder] = writer.close()
        return item
    _require_finite(tokens)
    made.shape = tuple(tokens.dense_BDgg.shape[1:])
    for output, writer in writers.items():
        clustering = output.clustering
        if clustering is not None:
            arrays_B = region_maps(
                tokens.dense_BDgg,
                tokens.ignored_Bgg,
                clustering.windows,
                clustering.seed_mode,
                clustering.rounds,
                clustering.fusion_threshold,
                clustering.max_regions,
            )
        else:
            arrays_B = tokens.dense_BDgg if output.output.kind == "dense" else tokens.cls_BD
            assert arrays_B is not None
        for name, array in zip(tokens.names, arrays_B.cpu().numpy(), strict=True):
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            writer.add(name, {"npy": buffer.getvalue()})
            if clustering is not None:
                made.regions[output.folder] += _count(array)
    return item


def _require_finite(tokens: Tokens) -> None:
    both = {"CLS token": tokens.cls_BD, "dense tokens": tokens.dense_BDgg}  # dense as stored: float16 may overflow
    for kind, values in both.items():
        if values is None:
            continue
        finite_B = torch.isfinite(values).flatten(1).all(1).tolist()
        for name, finite in zip(tokens.names, finite_B, strict=True):
            if not finite:
                raise NotFinite(
                    f"the {kind} of view {name} hold NaN or infinity", "finite tokens", "check teacher.weights"
                )


def _whole(store: Store, folder: str, records: int, count: bool) -> tuple[list[ShardEntry], int] | None:
    """The shards of a block if all of them exist, and the number of regions in their maps if it is needed."""
    entries, regions = [], 0
    for shard in found_shards(store, folder):
        entries.append(shard.entry)
        if count:
            contents = (shard.content(number, "npy") for number in range(shard.entry.records))
            regions += sum(_count(np.load(io.BytesIO(data), allow_pickle=False)) for data in contents)
    return (entries, regions) if sum(entry.records for entry in entries) == records else None


def _count(regions_gg: np.ndarray) -> int:
    return len(np.unique(regions_gg[regions_gg != IGNORE]))


def _batched(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
