"""Chooses the training images that are held out for validation while training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cliptea.errors import ConfigError

__all__ = ["held_out_images"]


def held_out_images(names: Sequence[str], number: int, seed: int) -> list[int]:
    """The positions of the `number` images whose names have the smallest hashes, in ascending order.

    So the choice depends on the names and the seed only, and not on the order of the images.

    Args:
        names: of all training images.
        number: at least 1, if images are held out at all.
        seed: that of the data.

    Raises:
        ConfigError: no image is left to train on.
    """
    if number >= len(names) > 0:
        raise ConfigError(
            f"train.validate_every holds out {number} of {len(names)} training images",
            "two or more training images",
            "add images, or set train.validate_every=0",
        )
    digests = [hashlib.sha256(f"held-out\0{seed}\0{name}".encode()).digest() for name in names]
    return sorted(sorted(range(len(names)), key=digests.__getitem__)[:number])
