"""The classes of the demo world: their textures, which of them are unseen, and which look alike.

Colours are those that a person expects. Each unseen class shares its colour with one seen class and its pattern with
another, as words share parts of their meaning. Most classes look like several others, seen and unseen.
"""

from cliptea.data.world.textures import Texture

__all__ = ["CLASSES", "LOOK_ALIKES", "TEXTURES", "UNSEEN"]

WHITE, BLACK, YELLOW, RED = (236, 234, 230), (26, 24, 26), (240, 206, 48), (212, 40, 38)
BLUE, GREEN, PURPLE = (52, 98, 178), (78, 146, 56), (112, 48, 138)
TAN, BROWN = (212, 166, 96), (104, 66, 36)

TEXTURES: dict[str, Texture] = {
    "zebra": Texture("black and white", "stripes", WHITE, BLACK, 9),
    "chess": Texture("black and white", "checks", WHITE, BLACK, 10),
    "cow": Texture("black and white", "patches", WHITE, BLACK, 9),
    "tiger": Texture("orange", "stripes", (232, 128, 36), BLACK, 9),
    "bee": Texture("yellow", "stripes", YELLOW, BLACK, 9),
    "lemon": Texture("yellow", "plain", YELLOW, (252, 228, 110), 16),
    "ladybug": Texture("red", "dots", RED, BLACK, 9),
    "tomato": Texture("red", "plain", RED, (232, 84, 66), 16),
    "kilt": Texture("red", "checks", RED, (28, 62, 54), 10),
    "tiles": Texture("blue", "checks", BLUE, (206, 222, 238), 10),
    "jeans": Texture("blue", "weave", BLUE, (110, 146, 208), 4),
    "melon": Texture("green", "stripes", (134, 190, 84), (30, 88, 42), 9),
    "plum": Texture("purple", "plain", PURPLE, (146, 82, 168), 16),
    "grapes": Texture("purple", "dots", PURPLE, (190, 142, 208), 8),
    "leopard": Texture("brown", "dots", TAN, BROWN, 7),
    "giraffe": Texture("brown", "patches", TAN, BROWN, 8),
    "grass": Texture("green", "blades", GREEN, (128, 186, 76), 6, stuff=True),
    "water": Texture("blue", "waves", BLUE, (132, 190, 222), 10, stuff=True),
    "sand": Texture("beige", "waves", (226, 202, 156), (190, 160, 112), 9, stuff=True),
    "brick": Texture("red", "bricks", (170, 66, 50), (206, 196, 184), 12, stuff=True),
    "snow": Texture("white", "plain", (240, 244, 250), (218, 226, 240), 20, stuff=True),
    "wood": Texture("brown", "grain", (158, 108, 62), (98, 60, 32), 9, stuff=True),
    "marble": Texture("white", "grain", (232, 232, 236), (156, 158, 168), 9, stuff=True),
}
CLASSES: tuple[str, ...] = tuple(TEXTURES)
UNSEEN: tuple[str, ...] = ("zebra", "chess", "ladybug", "tiles", "grapes", "giraffe", "water", "wood")


def _alike(first: str, second: str) -> bool:
    """Whether two classes have the same colour and another pattern, or the same pattern and another colour."""
    a, b = TEXTURES[first], TEXTURES[second]
    return (a.colour == b.colour) != (a.pattern == b.pattern)


# Train ids of the classes that look like the class with this train id.
LOOK_ALIKES: tuple[tuple[int, ...], ...] = tuple(
    tuple(index for index, other in enumerate(CLASSES) if _alike(name, other)) for name in CLASSES
)
