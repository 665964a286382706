"""The report's examples of pseudo regions are images that have some."""

import numpy as np

from cliptea.report.context import RegionPicture
from cliptea.steps.gather import showing_regions


def picture(name, regions):
    nothing = np.zeros((10, 10, 3), np.uint8)
    return RegionPicture(name, nothing, nothing[..., 0], regions)


def test_the_first_images_with_regions_come_first_and_others_fill_up():
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(40):
        regions = np.full((10, 10), 255, np.uint8)
        side = int(rng.integers(0, 11))
        regions[:side, :side] = rng.integers(0, 1 + number % 3, (side, side))
        pictures.append(picture(f"{number}", regions))
    shares = [np.mean(one.regions != 255) for one in pictures]
    several = [len(set(one.regions.ravel().tolist()) - {255}) >= 2 for one in pictures]
    good = [one.id for one, share, many in zip(pictures, shares, several, strict=True) if share >= 0.2 and many]
    assert 6 < len(good) < 40
    assert [one.id for one in showing_regions(iter(pictures), 6)] == good[:6]
    rest = [one.id for one in pictures if one.id not in good]
    assert [one.id for one in showing_regions(iter(pictures), 40)] == good + rest
    assert showing_regions(iter(pictures), 0) == []
