"""The classes of the demo world: their textures, which of them are unseen, and which look alike.

Colours are those that a person expects. Each unseen class shares its colour with a seen class, and most share their
pattern with another one, as words share parts of their meaning. Most classes look like several others.
"""

from cliptea.data.world.textures import Texture

__all__ = ["CLASSES", "LOOK_ALIKES", "TEXTURES", "UNSEEN"]

WHITE, BLACK, YELLOW, RED = (236, 234, 230), (26, 24, 26), (244, 214, 48), (212, 40, 38)

TEXTURES: dict[str, Texture] = {
    "zebra": Texture("black and white", "stripes", WHITE, BLACK, 9),
    "chess": Texture("black and white", "checks", WHITE, BLACK, 10),
    "cow": Texture("black and white", "patches", WHITE, BLACK, 13),
    "tiger": Texture("orange", "stripes", (228, 112, 24), BLACK, 9),
    "bee": Texture("yellow", "stripes", YELLOW, BLACK, 9),
    "lemon": Texture("yellow", "plain", YELLOW, (252, 228, 110), 16),
    "ladybug": Texture("red", "dots", RED, BLACK, 9),
    "tomato": Texture("red", "plain", RED, (232, 84, 66), 16),
    "kilt": Texture("red", "checks", RED, (28, 62, 54), 10),
    "tiles": Texture("blue", "checks", (52, 98, 178), (206, 222, 238), 10),
    "jeans": Texture("blue", "weave", (34, 52, 104), (98, 120, 176), 5),
    "melon": Texture("green", "stripes", (158, 206, 98), (24, 80, 44), 10),
    "plum": Texture("purple", "plain", (126, 50, 138), (150, 74, 160), 16),
    "grapes": Texture("purple", "dots", (76, 30, 108), (212, 178, 228), 9),
    "leopard": Texture("brown", "dots", (212, 166, 96), (58, 36, 22), 7),
    "grass": Texture("green", "blades", (78, 146, 56), (110, 172, 66), 6, stuff=True),
    "water": Texture("blue", "waves", (46, 118, 190), (146, 206, 232), 10, stuff=True),
    "sand": Texture("beige", "waves", (226, 202, 156), (190, 160, 112), 9, stuff=True),
    "brick": Texture("red", "bricks", (170, 66, 50), (206, 196, 184), 12, stuff=True),
    "snow": Texture("white", "plain", (244, 248, 252), (222, 232, 246), 20, stuff=True),
    "wood": Texture("brown", "grain", (158, 108, 62), (98, 60, 32), 9, stuff=True),
}
CLASSES: tuple[str, ...] = tuple(TEXTURES)
UNSEEN: tuple[str, ...] = ("zebra", "chess", "ladybug", "tiles", "grapes", "water", "wood")


def _alike(first: str, second: str) -> bool:
    """Whether two classes have the same colour and another pattern, or the same pattern and another colour."""
    a, b = TEXTURES[first], TEXTURES[second]
    return (a.colour == b.colour) != (a.pattern == b.pattern)


# Train ids of the classes that look like the class with this train id.
LOOK_ALIKES: tuple[tuple[int, ...], ...] = tuple(
    tuple(index for index, other in enumerate(CLASSES) if _alike(name, other)) for name in CLASSES
)
