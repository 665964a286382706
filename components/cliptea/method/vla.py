"""Vision-language adapter (arXiv 2310.02296, section 3.3): turns class centroids into classifiers in CLIP's text space.

Shapes: B images, h w features, L = h*w, D channels, S seen classes, P pseudo classes of an image (padded), C
= S + P, Q queries, M memory tokens.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliptea.method.precision import in_float32

__all__ = [
    "Adapter",
    "AdapterKind",
    "Centroids",
    "Generated",
    "class_centroids",
    "generate_classifiers",
    "generate_loss",
    "region_starts",
]

AdapterKind = Literal["transformer_decoder", "mlp", "original", "region"]


class Centroids(NamedTuple):
    """Mean feature of each class; rows of absent classes are zero.

    Attributes:
        seen_SD: (S, D) float32, over the batch of all processes.
        seen_present_S: (S,) bool.
        pseudo_BPD: (B, P, D) float32, over a single image.
        pseudo_present_BP: (B, P) bool.
    """

    seen_SD: Tensor
    seen_present_S: Tensor
    pseudo_BPD: Tensor
    pseudo_present_BP: Tensor


class Generated(NamedTuple):
    """Unit-norm classifier vectors from the adapter, with fields and absent rows as in `Centroids`."""

    seen_SD: Tensor
    seen_present_S: Tensor
    pseudo_BPD: Tensor
    pseudo_present_BP: Tensor


@in_float32
def class_centroids(
    features_BDhw: Tensor,
    labels_Bhw: Tensor,
    num_seen: int,
    num_regions_B: Tensor,
    detach: bool = False,
    total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Centroids:
    """Average the student's features over the pixels of each class (eq. 7).

    Args:
        features_BDhw: (B, D, h, w) float, the student's dense features R.
        labels_Bhw: (B, h, w) integer at feature size: seen index, num_seen + region of that image, or 255.
        num_seen: S.
        num_regions_B: (W,) integer, numbers of regions of W images, which are these and possibly others of the global
            batch; the largest is P, which can be 0. With all images of the global batch, P is the same in every
            process, so that the centroids of all processes can be concatenated.
        detach: stop gradients to the features.
        total: sums a tensor over processes, so that seen classes are averaged over the batches of all processes.
    """
    num_pseudo = int(num_regions_B.max())
    features_BDL = (features_BDhw.detach() if detach else features_BDhw).flatten(2)
    classes_C = torch.arange(num_seen + num_pseudo, device=labels_Bhw.device)
    # Multiply with a one-hot matrix instead of using scattered additions. On CUDA, those contend for few addresses,
    # because a class covers thousands of pixels, and add in an arbitrary order.
    member_BLC = (labels_Bhw.flatten(1)[:, :, None] == classes_C).float()
    sums_BCD = (features_BDL @ member_BLC).mT
    counts_BC = member_BLC.sum(1)
    seen_SD, seen_S = total(sums_BCD[:, :num_seen].sum(0)), total(counts_BC[:, :num_seen].sum(0))
    pseudo_BP = counts_BC[:, num_seen:]
    return Centroids(
        seen_SD / seen_S.clamp(min=1)[:, None],
        seen_S > 0,
        sums_BCD[:, num_seen:] / pseudo_BP.clamp(min=1)[:, :, None],
        pseudo_BP > 0,
    )


class Adapter(nn.Module):
    """Generator g: class centroids -> unit-norm classifier vectors (section 3.3; the kinds are the rows of Table 5).

    The kind `region` is not in the paper. For seen classes, its decoder works as the paper's does. The vector of a
    region starts from CLIP's embedding of the region, to which a linear layer, zero at first, adds a residual made from
    the decoder's output.

    Args:
        kind: `transformer_decoder`, standard post-norm decoder layers; `mlp`, two linear layers; `original`,
            identity; `region`, decoder layers with starts.
        dim: D of queries and memory.
        layers: decoder layers.
        heads: attention heads.
        ffn: hidden channels of a decoder layer's feed-forward net.
        dropout: in decoder layers.

    Raises:
        ValueError: unknown kind, or heads do not divide dim.
    """

    def __init__(
        self,
        kind: AdapterKind,
        dim: int = 512,
        layers: int = 3,
        heads: int = 8,
        ffn: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.decoder = nn.ModuleList()
        self.project: nn.Module = nn.Identity()
        self.residual: nn.Linear | None = None
        if kind in ("transformer_decoder", "region"):
            if dim % heads:
                raise ValueError(f"generator has {heads} heads for {dim} channels: heads must divide channels")
            # nn.TransformerDecoder would copy one layer, so that all layers start with the same weights.
            for _ in range(layers):
                self.decoder.append(nn.TransformerDecoderLayer(dim, heads, ffn, dropout, batch_first=True))
            if kind == "region":
                self.residual = nn.Linear(dim, dim, bias=False)
                nn.init.zeros_(self.residual.weight)
        elif kind == "mlp":
            self.project = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        elif kind != "original":
            raise ValueError(f"generator is {kind!r}: expected 'transformer_decoder', 'mlp', 'original' or 'region'")

    def forward(self, queries_QD: Tensor, memory_MD: Tensor, starts_RD: Tensor | None = None) -> Tensor:
        """Adapt class centroids.

        Args:
            queries_QD: (Q, D) float, centroids. For Q = 0 the result is (0, D) and gives all parameters zero gradients,
                because distributed training waits for a gradient of each parameter.
            memory_MD: (M, D) float, the CLS tokens of the batch, only used by decoder layers.
            starts_RD: (R, D) float, unit norm, starts of the last R queries, for the kind `region`.

        Returns:
            (Q, D) float32, unit norm.
        """
        if len(queries_QD) == 0:
            return queries_QD.float() + sum(0 * parameter.sum() for parameter in self.parameters())
        adapted_1QD = self.project(queries_QD[None])
        for layer in self.decoder:
            adapted_1QD = layer(adapted_1QD, memory_MD[None])
        adapted_QD = adapted_1QD[0].float()
        if self.residual is not None and starts_RD is not None:
            first = len(adapted_QD) - len(starts_RD)
            moved_RD = starts_RD + self.residual(adapted_QD[first:])
            adapted_QD = torch.cat([adapted_QD[:first], moved_RD])
        return F.normalize(adapted_QD, dim=1)


@in_float32
def region_starts(tokens_BRD: Tensor, mean_D: Tensor, text_SD: Tensor) -> Tensor:
    """CLIP's embeddings of regions, moved to where text features lie. Not in the paper.

    Embeddings of images and of texts lie in two separate parts of CLIP's space. The mean embedding of regions is
    replaced by the mean text feature of the seen classes.

    Args:
        tokens_BRD: (B, R, D) float, unit norm.
        mean_D: (D,) float, mean of many such embeddings.
        text_SD: (S, D) float, unit norm.

    Returns:
        (B, R, D) float32, unit norm.
    """
    return F.normalize(tokens_BRD - mean_D + text_SD.mean(0), dim=2)


def generate_classifiers(
    adapter: Adapter, centroids: Centroids, cls_MD: Tensor, starts_BPD: Tensor | None = None
) -> Generated:
    """Run the adapter on the present classes: first the seen classes, then the regions of each image.

    Args:
        adapter: the generator g.
        centroids: from `class_centroids`.
        cls_MD: (M, D) float, CLS tokens of the batch.
        starts_BPD: (B, P, D) float, starts of the regions' vectors, for the adapter of the kind `region`.

    Returns:
        Vectors in the layout of `centroids`. If no class is present, all vectors are zero, and the parameters of the
        adapter still receive (zero) gradients.
    """
    seen_S, pseudo_BP = centroids.seen_present_S, centroids.pseudo_present_BP
    queries_QD = torch.cat([centroids.seen_SD[seen_S], centroids.pseudo_BPD[pseudo_BP]])
    starts_RD = None if starts_BPD is None else starts_BPD[pseudo_BP]
    adapted_QD = adapter(queries_QD, cls_MD.float(), starts_RD)
    num_seen_queries = len(queries_QD) - int(pseudo_BP.sum())
    seen_SD, pseudo_BPD = torch.zeros_like(centroids.seen_SD), torch.zeros_like(centroids.pseudo_BPD)
    seen_SD[seen_S] = adapted_QD[:num_seen_queries]
    pseudo_BPD[pseudo_BP] = adapted_QD[num_seen_queries:]
    return Generated(seen_SD, seen_S, pseudo_BPD, pseudo_BP)


@in_float32
def generate_loss(generated_SD: Tensor, present_S: Tensor, text_SD: Tensor) -> Tensor:
    """Pull the generated vectors of seen classes to their text features (L_generate, eq. 8).

    Args:
        generated_SD: (S, D) float, unit norm where present.
        present_S: (S,) bool, seen classes of the batch.
        text_SD: (S, D) float, unit norm.

    Returns:
        Scalar float32: the squared distance, summed over channels and averaged over present classes (a sum in the
        paper); 0 if no class is present.
    """
    distance_S = (generated_SD - text_SD).square().sum(1)
    return (distance_S * present_S).sum() / present_S.sum().clamp(min=1)
