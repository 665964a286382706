"""How students are shared among the parts of a run."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliptea.errors import ConfigError
from cliptea.parts import Part, numbers_of, ranges


@settings(deadline=None)
@given(st.integers(1, 300), st.data())
def test_every_student_is_in_one_part_and_parts_are_of_equal_size(students, data):
    of = data.draw(st.integers(1, students))
    shares = [Part(number, of).share(range(students)) for number in range(1, of + 1)]
    assert [student for share in shares for student in share] == list(range(students))
    sizes = {len(share) for share in shares}
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) == -(-students // of)


@settings(deadline=None)
@given(st.integers(1, 999_999), st.data())
def test_a_part_is_read_as_it_is_written(of, data):
    needs = ranges(sorted(data.draw(st.sets(st.integers(1, of), max_size=3))))
    part = Part(data.draw(st.integers(1, of)), of, needs)
    assert part.name == f"{part.number}/{of}"
    assert Part.parse(str(part)) == part


def test_no_part_is_the_whole():
    assert Part.parse("") == Part(1, 1)
    assert Part(1, 1).share("abc") == ["a", "b", "c"]


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/0", "-1/2", "1/2/3", " 1/2", "a/b", "1/2\n", "१/२", "1/2 with"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(ConfigError, match="is not a part of a run; expected its number and their count, such as 2/50"):
        Part.parse(text)


def test_parts_that_are_needed_exist():
    with pytest.raises(ConfigError, match="cannot read the parts '3'; expected numbers from 1 to 2"):
        Part.parse("2/2 with 3")


@settings(deadline=None)
@given(st.sets(st.integers(1, 60), min_size=1))
def test_numbers_are_read_as_they_are_written(numbers):
    assert numbers_of(ranges(sorted(numbers)), 60) == sorted(numbers)


def test_ranges_are_short():
    assert ranges([1, 2, 3, 5, 7, 8]) == "1-3,5,7-8"
    assert ranges([]) == ""
    assert numbers_of(" 7 - 8, 2,2 ,1-2", 8) == [1, 2, 7, 8]


@pytest.mark.parametrize("text", ["", "0", "1,", "9", "2-1", "1-9", "-2", "a", "1;2"])
def test_what_are_no_numbers_is_refused(text):
    with pytest.raises(ConfigError, match=r"cannot read the parts .*; expected numbers from 1 to 8, such as 1 or 1-8"):
        numbers_of(text, 8)
