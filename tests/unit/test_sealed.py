"""Documents that carry their own sha256."""

import json

import pytest
from pydantic import BaseModel, ValidationError

from cliptea.errors import NotFinite
from cliptea.sealed import Damaged, seal, unseal


class Paper(BaseModel):
    name: str
    values: dict[str, float | None] = {}
    anything: object = None


PAPER = Paper(name='ä "q" \\ /', values={"a": 0.1 + 0.2, "b": None, "c": -0.0, "d": 1e300}, anything=[1, (2, "x")])


def test_a_sealed_document_comes_back():
    found = unseal(seal(PAPER), Paper)
    assert (found.name, found.values) == (PAPER.name, PAPER.values)
    assert found.anything == [1, [2, "x"]]


def test_no_wrong_bit_changes_the_content():
    data = seal(PAPER)
    noticed = 0
    for place in range(len(data)):
        for bit in range(8):
            wrong = bytearray(data)
            wrong[place] ^= 1 << bit
            try:
                assert unseal(bytes(wrong), Paper) == unseal(data, Paper)  # white space
            except Damaged:
                noticed += 1
    assert noticed > 0.9 * 8 * len(json.dumps(json.loads(data)))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"null", b"\xff", b'{"name": "a"}', b'{"name": "a", "sha256": 1}'])
def test_what_has_no_hash_counts_as_damaged(data):
    with pytest.raises(Damaged, match="damaged"):
        unseal(data, Paper)


def test_another_version_s_document_is_told_from_damage():
    with pytest.raises(ValidationError):
        unseal(seal(PAPER), type("Other", (BaseModel,), {"__annotations__": {"other": int}}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_not_sealed(value):
    with pytest.raises(NotFinite, match="a number in a Paper is not finite"):
        seal(Paper(name="a", anything=[value]))
