"""The stages behind CLIP: divide the tokens of a batch into regions, and write them to the shards of their block.

On a GPU, clustering has a CUDA stream of its own. It waits for results many times, and must not wait for CLIP as well.

Shape legend: B views of a batch, D joint width, g tokens per side, R regions of a view.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np

from cliptea import device
from cliptea.data.records import REGION_TOKENS
from cliptea.data.shard_sets import ShardEntry
from cliptea.data.shard_writer import ShardWriter, found_shards
from cliptea.method.losses import IGNORE
from cliptea.storage import Store
from cliptea.teacher.batch_tokens import Tokens
from cliptea.teacher.outputs import MadeBlock, ViewOutput
from cliptea.teacher.stopwatch import Stopwatch

__all__ = ["Batch", "OpenBlock", "cluster", "whole", "write"]


class OpenBlock(NamedTuple):
    """A block while it is computed. Outputs that exist have no writer."""

    made: MadeBlock
    views: range
    writers: dict[ViewOutput, ShardWriter]
    clip: Stopwatch


class Batch(NamedTuple):
    """What is written of some views, in the memory of the CPU."""

    names: list[str]
    arrays_B: dict[ViewOutput, np.ndarray]  # with one row for each view
    region_tokens: dict[ViewOutput, list[np.ndarray]]  # (R, D) float32 of each view
    shapes: dict[str, tuple[int, ...]]  # as in `MadeBlock`


def cluster(beside: device.Beside, item: tuple[OpenBlock, Tokens | None]) -> tuple[OpenBlock, Batch | None]:
    """Divide the tokens of a batch into regions, and move everything that is written to the CPU.

    Raises:
        NotFinite: a token is NaN or infinite; the error names the view.
    """
    block, tokens = item
    if tokens is None:
        return block, None
    with beside.after(tokens.ready):
        tokens.require_finite()
        arrays_B, described, shapes = {}, {}, {}
        for output in block.writers:
            kind, regions = output.output.kind, tokens.described.get(output)
            if kind == "regions":
                values_B = tokens.maps(output) if regions is None else regions.maps_Bgg
            else:
                values_B = tokens.cls_BD if kind == "tokens" else tokens.kinds[kind]
                assert values_B is not None
                shapes[kind] = (values_B.shape[1], *tokens.ignored_Bgg.shape[1:])
            arrays_B[output] = values_B.cpu().numpy()
            if regions is not None:
                described[output] = [tokens_RD.cpu().numpy() for tokens_RD in regions.tokens]
    return block, Batch(tokens.names, arrays_B, described, shapes)


def write(item: tuple[OpenBlock, Batch | None]) -> tuple[OpenBlock, Batch | None]:
    """Append a batch to the shards of each output, and count the regions. At the end of a block, store its shards."""
    (made, _, writers, _), batch = item
    if batch is None:
        for output, writer in writers.items():
            made.shards[output.folder] = writer.close()
        return item
    made.shapes.update(batch.shapes)
    for output, writer in writers.items():
        described = batch.region_tokens.get(output)
        for place, (name, array) in enumerate(zip(batch.names, batch.arrays_B[output], strict=True)):
            members = {"npy": _bytes(array)}
            if described is not None:
                members[REGION_TOKENS] = _bytes(described[place])
            writer.add(name, members)
            if output.output.kind == "regions":
                made.regions[output.folder] += _count(array)
    return item


def whole(store: Store, folder: str, records: int, count: bool) -> tuple[list[ShardEntry], int] | None:
    """The shards of a block if all of them exist, and the number of regions in their maps if it is needed."""
    entries, regions = [], 0
    for shard in found_shards(store, folder):
        entries.append(shard.entry)
        if count:
            contents = (shard.content(number, "npy") for number in range(shard.entry.records))
            regions += sum(_count(np.load(io.BytesIO(data), allow_pickle=False)) for data in contents)
    return (entries, regions) if sum(entry.records for entry in entries) == records else None


def _bytes(array: np.ndarray) -> bytes:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _count(regions_gg: np.ndarray) -> int:
    return len(np.unique(regions_gg[regions_gg != IGNORE]))
