"""Errors that go from one process to another, and errors of the system."""

import errno
import pickle
import traceback

import pytest

from cliptea import errors
from cliptea.errors import ClipteaError, StorageError, Unusable, portable, refuse_system
from cliptea.tracking.address import MlflowAway
from cliptea_pipeline.endpoint import Away


def kinds(base=ClipteaError):
    return [base, *(kind for below in base.__subclasses__() for kind in kinds(below))]


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind.__module__ == errors.__name__])
@pytest.mark.parametrize("parts", [("what",), ("what", "expected"), ("a" * 9000, "b; c", "do \x1b this")])
def test_an_error_is_pickled_with_all_its_parts(kind, parts):
    made = kind(*parts)
    for read in (pickle.loads(pickle.dumps(made)), portable(made)):
        assert type(read) is kind
        assert (read.what, read.expected, read.todo) == (made.what, made.expected, made.todo)
        assert str(read) == str(made)


@pytest.mark.parametrize("made", [MlflowAway("refused"), MlflowAway("full", False), Away("x", "y", "z", reason="r")])
def test_so_is_an_error_whose_class_takes_something_else(made):
    read = pickle.loads(pickle.dumps(made))
    assert (type(read), str(read), read.reason) == (type(made), str(made), made.reason)
    assert (read.what, read.expected, read.todo, read.temporary) == (
        made.what,
        made.expected,
        made.todo,
        made.temporary,
    )


def test_other_errors_keep_their_kind_and_where_they_were_raised():
    try:
        raise FileNotFoundError(errno.ENOENT, "No such file", "a.png")
    except OSError as error:
        read = pickle.loads(pickle.dumps(portable(error)))
    assert type(read) is FileNotFoundError
    assert (read.errno, read.filename) == (errno.ENOENT, "a.png")
    assert "test_errors.py" in "".join(traceback.format_exception(read))


class Unreadable(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@pytest.mark.parametrize("error", [Unreadable("one", "two"), ValueError(lambda: None)])
def test_an_error_without_a_pickle_becomes_its_text(error):
    read = pickle.loads(pickle.dumps(portable(error)))
    assert type(read) is RuntimeError
    assert str(read) == f"{type(error).__name__}: {error}"


def test_only_errors_of_the_system_are_refused():
    refuse_system(ValueError("a header is missing"), "cannot read a.pt")
    refuse_system(OSError("image file is truncated"), "cannot read a.png")
    refuse_system(FileNotFoundError(errno.ENOENT, "No such file or directory", "a.pt"), "cannot read a.pt")
    with pytest.raises(
        StorageError, match=r"^cannot read a\.pt: the disk has an input/output error \(OSError: .*\); look"
    ):
        refuse_system(OSError(errno.EIO, "Input/output error"), "cannot read a.pt")


@pytest.mark.parametrize("folder", ["/home/u", "/a" * 300])
def test_an_error_of_the_system_names_the_file_and_every_way_out(folder):
    error = PermissionError(errno.EACCES, "Permission denied", f"{folder}/list.txt")
    with pytest.raises(Unusable) as refused:
        refuse_system(error, "cannot create the data set own:Photos", "take another one")
    assert str(refused.value).startswith("cannot create the data set own:Photos: this user may not do that (")
    assert "/list.txt'); correct the permissions" in str(refused.value)
    assert str(refused.value).endswith("; or take another one")
    with pytest.raises(Unusable, match=r"^a: memory is exhausted \(MemoryError\); give it more memory"):
        refuse_system(MemoryError(), "a")
