"""Processes blocks of views: read, encode with CLIP, cluster and write. All stages run at the same time.

CLIP does not wait at the end of a block: it goes on with the next block while the last one is written.

Shape legend: B views of a batch, C crop, D joint width, g tokens per side.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
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
from cliptea.data.shard_writer import ShardWriter
from cliptea.data.shards import ShardReader
from cliptea.data.views import choose_view, cut_labels
from cliptea.manifest import StoredObject
from cliptea.method.plm import ignored_tokens
from cliptea.storage import Store
from cliptea.teacher.batch_tokens import Regions, Tokens
from cliptea.teacher.block_stages import OpenBlock, cluster, whole, write
from cliptea.teacher.clip import Teacher, open_teacher
from cliptea.teacher.outputs import REGION_BLOCKS, MadeBlock, ViewOutput, clustered_kind
from cliptea.teacher.stopwatch import Stopwatch

__all__ = ["BLOCK", "BlockMaker", "Job"]

BLOCK = 1024  # views, with 3 MiB of CLS tokens of 512 numbers; a killed worker loses at most one block
CENTRE_VIEWS = 64  # whose mean token is subtracted for clustering.tokens=value_centred, spread over all views
KINDS: tuple[str, ...] = ("dense", "value", "key")
Item = TypeVar("Item")


class Job(NamedTuple):
    """The description of the work for every worker. It can be pickled."""

    store: Store
    config: Config
    images: Mapping[str, StoredObject]  # objects of the train shards
    split: str  # fingerprint of the train shards
    outputs: tuple[ViewOutput, ...]  # the outputs to compute
    # objects of stored tokens by kind, for computing region maps; None: CLIP has to run
    stored: Mapping[str, Mapping[str, StoredObject]] | None
    weights: str  # of CLIP, as for `open_teacher`


class BlockMaker:
    """Computes blocks in one process.

    Memory: 17 decoded views, 7 batches of tokens, and for each output at most three times `data.shard_mib`. Stored
    tokens take another 100 MiB. Pictures of regions take 2 MiB for each region of a batch at 512 x 512 pixels.
    """

    def __init__(self, job: Job) -> None:
        self.job, self._where = job, device.best()
        self._config, self._seed = job.config.teacher, job.config.data.seed
        self._images = ShardReader(job.store, job.images, "train")
        self._readers: dict[str, ShardReader] | None = None
        if job.stored is not None:
            self._readers = {kind: ShardReader(job.store, objects, kind) for kind, objects in job.stored.items()}
        wanted = {output.output.kind for output in job.outputs}
        wanted |= {clustered_kind(output.clustering) for output in job.outputs if output.clustering is not None}
        self._kinds = [kind for kind in KINDS if kind in wanted]
        self.total = len(self._images) * self._config.views

    @property
    def blocks(self) -> list[range]:
        """The views of each block."""
        return [range(start, min(start + BLOCK, self.total)) for start in range(0, self.total, BLOCK)]

    @cached_property
    def _teacher(self) -> Teacher:
        return open_teacher(self.job.weights, self._config)

    def shape(self, kind: str) -> tuple[int, int, int]:
        """The shape (D, g, g) of the teacher's tokens of a kind; for CLS tokens, the grid is that of the others."""
        return self._teacher.width if kind == "key" else self._teacher.dim, *self._teacher.grid

    def make(self, blocks: Mapping[int, range], tell: Callable[[int], None]) -> list[MadeBlock]:
        """Compute the missing outputs of blocks.

        Args:
            blocks: the views of each block by its number.
            tell: called with the number of views that are done since the last call.
        """
        made = []
        clustered = ahead(partial(cluster, device.Beside()), self._batches(blocks), threads=1)
        for block, batch in ahead(write, clustered, threads=1):
            if batch is not None:
                tell(len(batch.names))
                continue
            block.made.clip = block.clip.read()
            made.append(block.made)
            if not block.writers:
                tell(len(block.views))
        return made

    def _batches(self, blocks: Mapping[int, range]) -> Iterator[tuple[OpenBlock, Tokens | None]]:
        """The tokens of each block in batches, and None at the end of the block."""
        for number, views in blocks.items():
            block = self._open(number, views)
            if block.writers:
                yield from ((block, tokens) for tokens in self._tokens(block))
            yield block, None

    def _stopwatch(self) -> Stopwatch:
        return Stopwatch(self._where, shared=self._config.num_workers > torch.cuda.device_count())

    def _open(self, number: int, views: range) -> OpenBlock:
        made, writers = MadeBlock(number=number), {}
        for output in self.job.outputs:
            folder = f"{output.folder}/{number:05d}"
            found = whole(self.job.store, folder, len(views), output.clustering is not None)
            if found is None:
                limit = self.job.config.data.shard_mib << 20
                writers[output], made.regions[output.folder] = ShardWriter(self.job.store, folder, limit), 0
            else:
                made.shards[output.folder], made.regions[output.folder] = found
        return OpenBlock(made, views, writers, self._stopwatch())

    @cached_property
    def _centre_D(self) -> Tensor | None:
        """The mean of the value tokens of some views, if a clustering setting needs it."""
        if not any(output.clustering and output.clustering.tokens == "value_centred" for output in self.job.outputs):
            return None
        views = range(0, self.total, -(-self.total // CENTRE_VIEWS))
        if self._readers is None:
            batches = self._encoded(views, self._stopwatch())
        else:
            batches = self._stored(self._readers, views)
        values = [tokens.kinds["value"].double().mean((2, 3)) for tokens in batches]
        return torch.cat(values).mean(0).float()

    def _tokens(self, block: OpenBlock) -> Iterator[Tokens]:
        """The tokens of a block, with the regions that CLIP has to describe for the outputs that it lacks."""
        device.prepare()
        centre_D = self._centre_D
        if self._readers is None:
            described = [output for output in block.writers if output.form != "none"]
            return self._encoded(block.views, block.clip, centre_D, described)
        return self._stored(self._readers, block.views, centre_D)

    def _encoded(
        self, views: range, clip: Stopwatch, centre_D: Tensor | None = None, described: Sequence[ViewOutput] = ()
    ) -> Iterator[Tokens]:
        """Compute tokens with CLIP, in bfloat16 on a GPU."""
        teacher = self._teacher  # is loaded now, and not while time is measured
        amp = torch.autocast(self._where.type, torch.bfloat16, enabled=self._where.type == "cuda")
        blocks = REGION_BLOCKS if any(output.form == "attention" for output in described) else 0
        for batch in _batched(ahead(self._view, views), self._config.batch_size):
            names, cut = zip(*batch, strict=True)
            images_BCC3, labels_BCC, valid_BCC = (
                torch.from_numpy(np.stack(part)).to(self._where) for part in zip(*cut, strict=True)
            )
            images_B3CC = images_BCC3.permute(0, 3, 1, 2)
            with amp, clip.running(len(batch)):
                encoded = teacher.encode(images_B3CC, valid_BCC, self._kinds, blocks)
            ignored_Bgg = ignored_tokens(labels_BCC, valid_BCC, self._teacher.grid)
            halves = {kind: tokens.half() for kind, tokens in encoded.tokens.items()}
            tokens = Tokens(list(names), encoded.cls_BD, halves, ignored_Bgg, centre_D)
            for output in described:
                maps_Bgg = tokens.maps(output)
                with amp:
                    if output.form == "attention":
                        found = teacher.region_tokens(encoded.inputs, maps_Bgg)
                    else:
                        size = self._config.batch_size
                        found = teacher.picture_tokens(images_B3CC, valid_BCC, maps_Bgg, size)
                tokens.described[output] = Regions(maps_Bgg, found)
            tokens.ready = device.done_so_far()
            yield tokens

    def _stored(
        self, readers: Mapping[str, ShardReader], views: range, centre_D: Tensor | None = None
    ) -> Iterator[Tokens]:
        """Read stored tokens. Only the labels of the images are read."""
        streams = [_records(reader, views) for reader in readers.values()]
        for batch in _batched(zip(ahead(self._labels, views), *streams, strict=True), self._config.batch_size):
            cut, *columns = zip(*batch, strict=True)
            names, labels, valid = zip(*cut, strict=True)
            labels_BCC, valid_BCC = (torch.from_numpy(np.stack(part)).to(self._where) for part in (labels, valid))
            arrays = ([np.load(io.BytesIO(data), allow_pickle=False) for data in column] for column in columns)
            kinds = {
                kind: torch.from_numpy(np.stack(array)).to(self._where)
                for kind, array in zip(readers, arrays, strict=True)
            }
            grid = next(iter(kinds.values())).shape[2:]
            ignored_Bgg = ignored_tokens(labels_BCC, valid_BCC, (grid[0], grid[1]))
            yield Tokens(list(names), None, kinds, ignored_Bgg, centre_D, device.done_so_far())

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


def _records(reader: ShardReader, views: range) -> Iterator[bytes | memoryview]:
    """The arrays of some views, as bytes of .npy files."""
    if views.step == 1:
        return reader.stream("npy", views.start, views.stop)
    return (reader.read(view, "npy") for view in views)


def _batched(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
