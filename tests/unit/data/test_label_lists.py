"""Lists of labels as annotation tools export them."""

import pytest

from cliptea.data.label_lists import colour_of, parse_list
from cliptea.errors import DataError

CVAT = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad sign:128,64,128:left,right:go\n\nsky:70,130,180::\n"
CAMVID = "0 0 0 background\n128 64 128\troad sign\n70 130 180 sky\n"
COLOURS = {"background": "#000000", "road sign": "#804080", "sky": "#4682b4"}


@pytest.mark.parametrize("text", [CVAT, CAMVID, CVAT.replace("\n", "\r\n"), "\ufeff" + CVAT])
def test_colours_are_read_by_name(text):
    assert parse_list(text.encode(), "x.txt") == COLOURS


@pytest.mark.parametrize("text", ["__ignore__\n_background_\nroad sign\nsky\n", "_background_\nroad sign\nsky"])
def test_names_alone_are_numbered_as_labelme_does(text):
    assert parse_list(text.encode(), "x.txt") == {"_background_": 0, "road sign": 1, "sky": 2}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "has no label names"),
        (b"# only a comment\n", "has no label names"),
        (b"name,r,g,b\nroad,1,2,3\n", "has no label names"),
        (b"road:1,2,3::\nsky\n", r"line 2 of x.txt is 'sky', which has another form"),
        (b"road:1,2,300::\n", "line 1 of x.txt is 'road:1,2,300::'"),
        (b"road:1,2::\n", "line 1 of x.txt is 'road:1,2::'"),
        (b"road:1,2,3::\nroad:4,5,6::\n", "names 'road' twice"),
        (b"sky\n\nroad\n", r"line 2 of x.txt is blank or a comment"),
        (b"sky\nroad\n# more\ncar\n", r"line 3 of x.txt is blank or a comment"),
        (b"# names\nsky\n", r"line 1 of x.txt is blank or a comment"),
        (b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_other_files_are_refused_in_one_line(text, says):
    with pytest.raises(DataError, match=says) as caught:
        parse_list(text, "x.txt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "colour"),
    [("#0A141e", "#0a141e"), ("10, 20,30", "#0a141e"), ("256,0,0", None), ("#12345", None), ("red", None), ("7", None)],
)
def test_colours_have_two_spellings(text, colour):
    assert colour_of(text) == colour
