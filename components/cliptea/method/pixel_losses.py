"""The pixel losses in bands of rows, without logits at the size of the image (arXiv 2310.02296, eq. 10 and 12).

Shapes: B images, C classes, h w features, H W loss size, N (image, present class) pairs.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cliptea.method.losses import IGNORE, class_pixels, drop_absent
from cliptea.method.precision import in_float32
from cliptea.method.upsampling import Upsampling, kept_upsampling

__all__ = ["PAPER_WEIGHTS", "IgnoreMode", "PixelLosses", "PixelWeights", "band_height", "pixel_losses"]

IgnoreMode = Literal["exclude", "negative"]
ALPHA = 0.25  # weight of positives in the focal loss (ZegCLIP); negatives have 1 - ALPHA
# Logits are held between these before they are exponentiated. Beyond them, a sigmoid is 0 or 1 for the purposes of the
# loss. Within them, exponentials are normal numbers; subnormal ones take ten times as long on a CPU.
LOWEST, HIGHEST = -60.0, 40.0
# Memory of a band's four maps. On a CPU it lies in the cache, where passes over it cost a fraction of those over
# memory; smaller bands only add to the number of calls. A GPU needs millions of numbers at a time to be busy.
BAND_MIB = {"cpu": 8, "cuda": 256}


class PixelWeights(NamedTuple):
    """What the terms of L_pixel are multiplied by (eq. 12). Those of weight 0 are not computed."""

    ce: float = 1.0
    focal: float = 100.0
    dice: float = 1.0


PAPER_WEIGHTS = PixelWeights()


class PixelLosses(NamedTuple):
    """The weighted terms of L_pixel and their sum: scalars of float32. Only the sum has a gradient."""

    total: Tensor
    ce: Tensor
    focal: Tensor
    dice: Tensor


@in_float32
def pixel_losses(
    logits_BChw: Tensor,
    labels_BHW: Tensor,
    mask_BC: Tensor,
    weights: PixelWeights = PAPER_WEIGHTS,
    *,
    ignore: IgnoreMode = "exclude",
    pixels: Tensor | None = None,
    pairs: Tensor | None = None,
) -> PixelLosses:
    """Cross entropy, focal and dice loss of logits that are upsampled to the size of the labels (eq. 10 and 12).

    The upsampled logits of all images never exist. They are made, turned into a gradient and forgotten, a band of rows
    at a time.

    - Cross entropy over the classes of each image (eq. 10): the sum over pixels, divided by the number of labelled
      ones.
    - Focal loss of each class against the rest (NEL in ZegCLIP's form), sigma(z)^2 softplus(z) with weight 0.75 for
      negatives with logit z, and with weight 0.25 for positives with logit -z: the sum over images and classes of the
      mean over pixels, divided by M, the number of (image, present class) pairs.
    - Dice loss of these pairs, 1 - (2 sum(sigma y) + 1) / (sum(sigma) + sum(y) + 1): the sum over pairs, divided by M.

    Args:
        logits_BChw: (B, C, h, w) float, before softmax and sigmoid.
        labels_BHW: (B, H, W) integer, class or 255; pixels of an absent class count as 255.
        mask_BC: (B, C) bool, classes that compete in the image.
        weights: of the three terms.
        ignore: in focal and dice loss, 255 pixels are either omitted (with the mean over the labelled pixels of each
            image), or negatives of every class (with the mean over all its pixels), as in ZegCLIP.
        pixels: scalar number of labelled pixels, if the mean includes images of other processes; defaults to
            `labelled_pixels` of these images. Values below 1 count as 1.
        pairs: scalar M, if it includes images of other processes; defaults to the number of `present_pairs` of these
            images. Values below 1 count as 1.

    Returns:
        The weighted terms; 0 if no pixel is labelled.
    """
    labels_BHW = drop_absent(labels_BHW, mask_BC)
    counts_BC = class_pixels(labels_BHW, mask_BC.shape[1])
    pixels = counts_BC.sum() if pixels is None else pixels
    pairs = (counts_BC > 0).sum() if pairs is None else pairs
    total, terms_3 = _PixelLosses.apply(logits_BChw, labels_BHW, mask_BC, counts_BC, pixels, pairs, weights, ignore)
    return PixelLosses(total, *terms_3)


class _PixelLosses(torch.autograd.Function):
    """`pixel_losses`, whose gradient is made with the values and only scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_BChw: Tensor,
        labels_BHW: Tensor,
        mask_BC: Tensor,
        counts_BC: Tensor,
        pixels: Tensor,
        pairs: Tensor,
        weights: PixelWeights,
        ignore: IgnoreMode,
    ) -> tuple[Tensor, Tensor]:
        per_pixel, per_pair = (1 / max(1, float(number)) for number in (pixels, pairs))
        shares = PixelWeights(weights.ce * per_pixel, weights.focal * per_pair, weights.dice * per_pair)
        grad_BChw = torch.zeros_like(logits_BChw) if ctx.needs_input_grad[0] else None
        terms_3 = logits_BChw.new_zeros(3)
        everywhere = ignore == "negative" and float(pairs) > 0  # without a pair no pixel of the batch is labelled
        resize = kept_upsampling(
            (logits_BChw.shape[2], logits_BChw.shape[3]),
            (labels_BHW.shape[1], labels_BHW.shape[2]),
            logits_BChw.device,
            logits_BChw.dtype,
        )
        # Everything that the loop branches on is read here in one go, because each read from a GPU waits until its work
        # is done.
        ranks_BC = (mask_BC.long() + (counts_BC > 0)).cpu()  # 2: present, 1: only competes, 0: neither
        counted_B = counts_BC.sum(1).tolist()
        order_BC = ranks_BC.argsort(dim=1, descending=True, stable=True)
        places_BX = F.pad(order_BC.argsort(dim=1), (0, max(0, IGNORE + 1 - order_BC.shape[1])))
        places_BX[:, IGNORE] = 0
        order_BC, places_BX = order_BC.to(logits_BChw.device), places_BX.to(labels_BHW.device)
        for image, (ranks_C, counted) in enumerate(zip(ranks_BC, counted_B, strict=True)):
            competing, present = int((ranks_C > 0).sum()), int((ranks_C == 2).sum())
            if not competing or not (counted or everywhere):
                continue
            classes_K = order_BC[image, :competing]
            losses = _ImageLosses(
                logits_BChw[image].index_select(0, classes_K).transpose(0, 1).contiguous(),
                places_BX[image][labels_BHW[image]],
                labels_BHW[image] != IGNORE,
                counts_BC[image, classes_K[:present]],
                labels_BHW[image].numel() if everywhere else counted,
                everywhere,
                shares,
                resize,
            )
            terms_3 += losses.terms_3
            if grad_BChw is not None:
                grad_BChw[image, classes_K] = losses.grad_hKw.transpose(0, 1)
        if grad_BChw is not None:
            ctx.save_for_backward(grad_BChw)
        ctx.mark_non_differentiable(terms_3)
        return terms_3.sum(), terms_3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_BChw,) = ctx.saved_tensors
        return grad_BChw * grad_outputs[0], *[None] * 7


class _ImageLosses:
    """Weighted losses of one image, and their gradient. K competing classes, the N present ones first; r rows.

    Dice needs sums over all pixels before its slope at any of them, so that the present classes are upsampled twice.

    Args:
        logits_hKw: (h, K, w) float.
        places_HW: (H, W) int64, place of the pixel's class among the K, 0 where it has none.
        known_HW: (H, W) bool, whether the pixel has a class.
        counts_N: (N,) int64, pixels of each present class.
        counted: number of pixels in the mean of the focal loss.
        everywhere: whether pixels at 255 are negatives in focal and dice.
        shares: weights over denominators of the whole batch.
        upsampling: from (h, w) to (H, W).

    Attributes:
        terms_3: (3,) float, cross entropy, focal, dice.
        grad_hKw: (h, K, w) float.
    """

    def __init__(
        self,
        logits_hKw: Tensor,
        places_HW: Tensor,
        known_HW: Tensor,
        counts_N: Tensor,
        counted: int,
        everywhere: bool,
        shares: PixelWeights,
        upsampling: Upsampling,
    ) -> None:
        self._logits_hKw, self._upsampling, self._shares = logits_hKw, upsampling, shares
        self._places_HW, self._known_HW = places_HW, known_HW
        self._everywhere, self._counts_N, self._counted = everywhere, counts_N, counted
        self.terms_3, self.grad_hKw = logits_hKw.new_zeros(3), torch.zeros_like(logits_hKw)
        self._nel = bool(shares.focal or shares.dice)
        slopes_N = own_slopes_N = logits_hKw.new_zeros(len(counts_N))
        if shares.dice and len(counts_N):
            slopes_N, own_slopes_N = self._dice()
        if not (shares.ce or shares.focal or shares.dice):
            return
        height = band_height(logits_hKw.shape[1], upsampling.width, logits_hKw)
        scratch = logits_hKw.new_empty(4, height, logits_hKw.shape[1], upsampling.width)
        for start in range(0, len(places_HW), height):
            stop = min(start + height, len(places_HW))
            self._band(start, stop, scratch[:, : stop - start], slopes_N, own_slopes_N)

    def _dice(self) -> tuple[Tensor, Tensor]:
        """Add the dice term; returns its slopes by sigma, for negatives and in addition for positives, each (N,)."""
        num, (height, width) = len(self._counts_N), self._places_HW.shape
        total_N = self._logits_hKw.new_zeros(num)
        # One sum for each column, because a GPU adds pixels to the same address one at a time.
        overlap_WN = self._logits_hKw.new_zeros(width, num)
        firsts_W = num * torch.arange(width, device=overlap_WN.device)
        logits_hNw = self._logits_hKw[:, :num].contiguous()
        rows = band_height(num, width, logits_hNw)
        scratch = logits_hNw.new_empty(2, rows, num, width)
        for start in range(0, height, rows):
            stop = min(start + rows, height)
            score_rNW, spare_rNW = scratch[:, : stop - start]
            self._upsampling.band(logits_hNw, start, stop, score_rNW, spare_rNW)
            score_rNW.sigmoid_()
            known_r1W, places_r1W = self._known_HW[start:stop, None], self._places_HW[start:stop, None]
            own_X = (score_rNW.gather(1, places_r1W) * known_r1W).flatten()
            overlap_WN.view(-1).index_add_(0, (places_r1W + firsts_W).flatten(), own_X)
            if not self._everywhere:
                score_rNW.mul_(known_r1W)
            total_N += score_rNW.sum((0, 2))
        total_N += self._counts_N + 1
        ratio_N = (2 * overlap_WN.sum(0) + 1) / total_N
        self.terms_3[2] = self._shares.dice * (1 - ratio_N).sum()
        return self._shares.dice * ratio_N / total_N, self._shares.dice * -2 / total_N

    def _band(self, start: int, stop: int, scratch: Tensor, slopes_N: Tensor, own_slopes_N: Tensor) -> None:
        """Add the cross entropy and focal loss of some rows, and the gradient of all three."""
        x_rKW, grad_rKW, score_rKW, cost_rKW = scratch
        known_r1W, places_r1W = self._known_HW[start:stop, None], self._places_HW[start:stop, None]
        self._upsampling.band(self._logits_hKw, start, stop, x_rKW, grad_rKW)
        own_r1W = x_rKW.gather(1, places_r1W)
        own_grad_r1W = torch.zeros_like(own_r1W)

        if self._shares.ce:
            top_r1W = x_rKW.amax(1, keepdim=True)
            torch.sub(x_rKW, top_r1W, out=grad_rKW).clamp_(min=LOWEST).exp_()
            sum_r1W = grad_rKW.sum(1, keepdim=True)
            self.terms_3[0].add_(self._shares.ce * ((sum_r1W.log() + top_r1W - own_r1W) * known_r1W).sum())
            grad_rKW.mul_(self._shares.ce * known_r1W / sum_r1W)
            own_grad_r1W -= self._shares.ce
        else:
            grad_rKW.zero_()

        if self._nel:
            negative, positive = (part * self._shares.focal / self._counted for part in (1 - ALPHA, ALPHA))
            # As negatives, a pixel's own class and pixels that do not count must cost nothing.
            x_rKW.scatter_(1, places_r1W, own_r1W.masked_fill(known_r1W, LOWEST))
            counts_r1W = known_r1W | self._everywhere
            square_rKW, slope_rKW, cost = _focal(x_rKW, counts_r1W, score_rKW, cost_rKW)
            grad_rKW.addcmul_(square_rKW, slope_rKW, value=2 * negative)
            num = len(slopes_N)
            grad_rKW[:, :num].addcmul_(score_rKW[:, :num] - square_rKW[:, :num], slopes_N[:, None])

            score_r1W = torch.empty_like(own_r1W)
            square_r1W, slope_r1W, own_cost = _focal(-own_r1W, known_r1W, score_r1W, torch.empty_like(own_r1W))
            own_grad_r1W.addcmul_(square_r1W, slope_r1W, value=-2 * positive)
            if num:
                own_grad_r1W += (slopes_N + own_slopes_N)[places_r1W.clamp(max=num - 1)] * (score_r1W - square_r1W)
            self.terms_3[1].add_(negative * cost + positive * own_cost)

        grad_rKW.scatter_add_(1, places_r1W, own_grad_r1W * known_r1W)
        self._upsampling.add_transposed(grad_rKW, start, stop, self.grad_hKw)


def _focal(x: Tensor, counts: Tensor, score: Tensor, cost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sigma(x)^2 softplus(x), the cost of a negative with logit x or of a positive with logit -x.

    Args:
        x: float, is overwritten.
        counts: bool, broadcast to x; where it is False, the cost is 0.
        score: of the shape of x, becomes sigma(x).
        cost: of the shape of x, is overwritten.

    Returns:
        sigma(x)^2; half the slope of the cost, divided by sigma(x)^2; the sum of the costs.
    """
    highest = torch.where(counts, HIGHEST, LOWEST).to(x.dtype)
    torch.minimum(x, highest, out=score).clamp_(min=LOWEST)
    x.sub_(score)  # what softplus grows by beyond HIGHEST
    score.exp_()
    torch.add(score, 1, out=cost)
    score.div_(cost)
    cost.log_().add_(x)
    square = torch.mul(score, score, out=x)
    total = torch.linalg.vecdot(square, cost).sum()  # one long product would lose digits
    return square, cost.lerp_(cost.new_full((), 0.5).expand_as(cost), score), total


def band_height(channels: int, width: int, like: Tensor) -> int:
    """The number of rows of a band, so that its four maps of (rows, channels, width) fit into `BAND_MIB`."""
    budget = BAND_MIB.get(like.device.type, BAND_MIB["cpu"]) << 20
    return max(1, budget // (4 * channels * width * like.element_size()))
