"""Which training images are held out: so many, by name and seed, whatever their order."""

import pytest

from cliptea.data.held_out import held_out_images
from cliptea.errors import ConfigError

NAMES = [f"image{number}" for number in range(50)]


def chosen(names, number=12, seed=0):
    return [names[place] for place in held_out_images(names, number, seed)]


def test_the_order_of_images_does_not_matter():
    found = chosen(NAMES)
    assert len(set(found)) == 12
    assert found == sorted(found, key=NAMES.index)
    assert set(chosen(NAMES[::-1])) == set(chosen(sorted(NAMES))) == set(found)


def test_the_seed_chooses_others_and_a_larger_part_holds_the_smaller_one():
    assert chosen(NAMES, seed=1) != chosen(NAMES)
    assert set(chosen(NAMES)) < set(chosen(NAMES, 13))


def test_an_image_that_was_not_chosen_may_be_removed():
    found = chosen(NAMES)
    other = next(name for name in NAMES if name not in found)
    assert chosen([name for name in NAMES if name != other]) == found


@pytest.mark.parametrize("images", [1, 12])
def test_some_images_have_to_be_left(images):
    with pytest.raises(ConfigError, match=f"holds out 12 of {images} training images; expected two or more"):
        chosen(NAMES[:images])
