"""The teacher's tokens of a batch of views, and the region maps made from them.

Shape legend: B views of a batch, D joint width, g tokens per side, R regions of a view.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from cliptea.config import ClusteringConfig
from cliptea.errors import NotFinite
from cliptea.method.regions import region_maps
from cliptea.teacher.outputs import ViewOutput, clustered_kind

__all__ = ["Regions", "Tokens"]


class Regions(NamedTuple):
    """Region maps of a batch."""

    maps_Bgg: Tensor  # uint8
    tokens: list[Tensor]  # (R, D) float32 of each view


@dataclass
class Tokens:
    """Teacher tokens of a batch, on the device that computed them."""

    names: list[str]
    cls_BD: Tensor | None  # float32; None if the other tokens come from the store
    kinds: dict[str, Tensor]  # (B, D, g, g) float16, as they are stored
    ignored_Bgg: Tensor  # bool
    centre_D: Tensor | None = None  # subtracted for clustering.tokens=value_centred
    ready: torch.cuda.Event | None = None  # when a GPU has computed them
    described: dict[ViewOutput, Regions] = field(default_factory=dict)  # region maps with an embedding of each region
    _maps: dict[ClusteringConfig, Tensor] = field(default_factory=dict)

    def maps(self, output: ViewOutput) -> Tensor:
        """(B, g, g) uint8, the region maps of an output."""
        assert output.clustering is not None
        clustering = output.clustering.model_copy(update={"region_tokens": "none"})
        if clustering in self._maps:
            return self._maps[clustering]
        tokens_BDgg = self.kinds[clustered_kind(clustering)]
        if clustering.tokens == "value_centred":
            assert self.centre_D is not None
            tokens_BDgg = tokens_BDgg.float() - self.centre_D[:, None, None]
        self._maps[clustering] = region_maps(tokens_BDgg, self.ignored_Bgg, clustering)
        return self._maps[clustering]

    def require_finite(self) -> None:
        """Check all tokens.

        Raises:
            NotFinite: one is NaN or infinite; the error names the view.
        """
        finite = {} if self.cls_BD is None else {"CLS token": _finite(self.cls_BD)}
        finite |= {f"{kind} tokens": _finite(values) for kind, values in self.kinds.items()}  # float16 may overflow
        for output, regions in self.described.items():
            known = [bool(tokens_RD.isfinite().all()) for tokens_RD in regions.tokens]
            finite[f"region tokens ({output.folder})"] = known
        for kind, known in finite.items():
            if not all(known):
                name = self.names[known.index(False)]
                raise NotFinite(
                    f"the {kind} of view {name} hold NaN or infinity", "finite tokens", "check teacher.weights"
                )


def _finite(values_B: Tensor) -> list[bool]:
    """For each view, whether all its values are finite."""
    return torch.isfinite(values_B).flatten(1).all(1).tolist()
