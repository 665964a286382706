"""Names of classes: those that the user adds belong to a class of the data set, and to no other."""

import pytest

from cliptea.data.catalogue import names_of
from cliptea.errors import ConfigError

CLASSES = ["person", "caf\u00e9", "dog"]


def test_a_class_has_the_names_that_are_listed_and_else_its_own():
    assert names_of(CLASSES, {}) == {}
    given = {"person": ["person", "man"], "cafe\u0301": ["bar, small"]}  # the same name in another Unicode form
    assert names_of(CLASSES, given) == {"person": ["person", "man"], "caf\u00e9": ["bar, small"]}


@pytest.mark.parametrize(
    ("synonyms", "says"),
    [
        ({"persn": ["man"]}, r"data.synonyms names 'persn', which the data set does not have; .*; perhaps person"),
        ({"person": ["man", "man"]}, "class names occur twice: man"),
        ({"person": ["Dog"]}, r"the class names 'Dog' and 'dog' have the same text embedding"),
        ({"person": ["x"], "dog": ["x"]}, "class names occur twice: x"),
        ({"person": [" "]}, "the class name ' ' is empty"),
        ({"person": ["a\x1b"]}, "has control characters"),
        ({"person": ["\x07"]}, "has control characters"),
        ({"caf\u00e9": ["a"], "cafe\u0301": ["b"]}, "class names occur twice"),
    ],
)
def test_names_that_no_class_has_or_two_have_are_refused(synonyms, says):
    with pytest.raises(ConfigError, match=says):
        names_of(CLASSES, synonyms)
