"""Networks and servers fail: an operation outlives it, or ends in bounded time with one line."""

import itertools
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from faulty_proxy import ALWAYS
from s3_server import QUICK

from cliptea.errors import ServerAway, StorageError
from cliptea.storage import fetch, s3_store
from cliptea.storage.s3_store import S3Store

DATA = np.random.default_rng(0).bytes(300_000)
LARGE = np.random.default_rng(1).bytes((15 << 20) + 1)
KINDS = ["500", "502", "503", "reset", "truncate", "stall", "stall-body", "lost"]
BUSY = replace(QUICK, timeout=20.0, patience=20.0)  # on a busy machine an answer may take long
STALLED = replace(BUSY, timeout=0.4)
PATIENCE = 0.6


def put(store):
    store.put("new", DATA)
    return store.get("new") == DATA


def delete(store):
    store.delete("k")
    return store.size("k") is None


OPERATIONS = {
    "put": put,
    "get": lambda store: store.get("k") == DATA,
    "range": lambda store: store.get("k", 1000, 5000) == DATA[1000:6000],
    "size": lambda store: store.size("k") == len(DATA),
    "entries": lambda store: [entry.key for entry in store.entries("")] == ["k"],
    "fetch": lambda store: fetch(store.uri("k")).read_bytes() == DATA,
    "delete": delete,
}


@pytest.fixture
def limits(request):
    """Requests time out soon only where they stall."""
    given = getattr(request.node, "callspec", None)
    return STALLED if given and "stall" in given.params.get("kind", "") else BUSY


@pytest.fixture
def store(store, limits):
    return S3Store(store.bucket, store.prefix, limits)


@pytest.fixture
def filled(store, environment, limits):
    """The store with one object, opened again: it has still to ask for the bucket's region."""
    environment.setattr(s3_store, "LIMITS", limits)  # `fetch` opens a store of its own
    store.put("k", DATA)
    return S3Store(store.bucket, store.prefix)


@pytest.fixture
def impatient(filled, environment, limits):
    """The same, that does not wait long."""
    environment.setattr(s3_store, "LIMITS", replace(limits, patience=PATIENCE))
    return S3Store(filled.bucket, filled.prefix)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_two_failures_of_each_request_are_outlived(filled, proxy, operation, kind):
    """The first two requests fail, then two of those that carry the object."""
    slow = "stall" in kind
    proxy.fail(kind, 1 if slow else 2)
    proxy.fail(kind, 1 if slow else 2, part=filled.prefix)
    assert OPERATIONS[operation](filled)
    assert proxy.injected >= 1 + (not slow)


@pytest.mark.parametrize("kind", ["500", "503", "reset", "stall", "truncate", "lost"])
@pytest.mark.parametrize(("method", "part"), [("POST", "uploads"), ("PUT", "partNumber=2"), ("POST", "uploadId")])
def test_every_step_of_a_large_upload_is_tried_again(store, proxy, kind, method, part):
    store = S3Store(store.bucket, store.prefix, replace(BUSY, timeout=5.0))  # parts are large, and one may stall
    proxy.fail(kind, 1, method, part)
    store.put("large", LARGE)
    assert proxy.injected == 1
    assert store.size("large") == len(LARGE)
    assert store.get("large") == LARGE


def test_an_upload_whose_end_is_not_answered_is_waited_for_and_not_sent_again(store, proxy, environment):
    """A server may take longer to combine the parts than a request may take."""
    proxy.fail("lost", 1, "POST", "uploadId")
    real, combining = store.entry, [None] * 3
    environment.setattr(store, "entry", lambda key: combining.pop() if combining else real(key))
    store.put("large", LARGE)
    assert (proxy.injected, combining) == (1, [])
    numbers = [re.search(r"partNumber=(\d+)", path)[1] for method, path in proxy.seen if method == "PUT"]
    assert sorted(numbers) == ["1", "2", "3", "4"]
    assert store.get("large") == LARGE


@pytest.mark.parametrize("etag", ["a", f"{0:032x}-4"])
def test_a_combined_upload_is_found_at_once_where_etags_are_no_md5s(store, proxy, environment, etag):
    """As with server-side encryption."""
    proxy.fail("lost", 1, "POST", "uploadId")
    real, looks = store.entry, []

    def entry(key):
        looks.append(key)
        return real(key)._replace(version=etag)

    environment.setattr(store, "entry", entry)
    store.put("large", LARGE)
    assert looks == ["large"]
    assert [method for method, _ in proxy.seen].count("PUT") == 4
    assert store.get("large") == LARGE


def test_an_earlier_object_of_the_same_size_is_not_the_upload_and_is_read_once(filled, proxy):
    assert not S3Store(filled.bucket, filled.prefix, STALLED)._combined("k", DATA[:-1] + bytes([DATA[-1] ^ 1]))
    assert [method for method, path in proxy.seen if path.endswith("/k")].count("GET") == 1


def test_an_error_behind_the_answer_200_is_no_success(store, proxy):
    """S3 may begin the answer to the end of an upload with 200 before it knows."""
    proxy.fail("error-in-200", 1, "POST", "uploadId")
    store.put("large", LARGE)
    assert proxy.injected == 1
    assert store.get("large") == LARGE


@pytest.mark.parametrize(
    ("operation", "kind"),
    [*itertools.product(OPERATIONS, ["503", "reset"]), ("put", "stall"), ("get", "stall"), ("entries", "stall")],
)
def test_what_fails_for_good_ends_with_one_line(impatient, proxy, operation, kind):
    proxy.fail(kind, ALWAYS)
    began = time.monotonic()
    with pytest.raises(ServerAway) as caught:
        OPERATIONS[operation](impatient)
    assert PATIENCE <= time.monotonic() - began < 10
    assert f"http://127.0.0.1:{proxy.port}" in str(caught.value)
    assert "CLIPTEA_PATIENCE" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert caught.value.temporary
    assert proxy.injected > 1


@pytest.mark.parametrize("operation", ["get", "range", "fetch"])
def test_a_body_that_always_breaks_off_ends_with_one_line(impatient, proxy, operation):
    proxy.fail("truncate", ALWAYS, "GET", part=f"{impatient.prefix}/k")
    with pytest.raises(ServerAway, match="the connection breaks"):
        OPERATIONS[operation](impatient)
    assert proxy.injected > 1


def test_a_large_upload_that_fails_leaves_nothing(store, proxy):
    proxy.fail("500", ALWAYS, "PUT", "partNumber=2")
    with pytest.raises(ServerAway, match="it answers 500"):
        S3Store(store.bucket, store.prefix, replace(BUSY, patience=PATIENCE)).put("large", LARGE)
    assert store.size("large") is None
    assert ("DELETE", "uploadId") in [(method, path.partition("?")[2][:8]) for method, path in proxy.seen]


@pytest.mark.parametrize("kind", ["400", "409"])
def test_errors_that_may_pass_are_waited_for_whatever_their_status_is(filled, proxy, kind):
    """AWS answers 400 RequestTimeout if a request stalls."""
    proxy.fail(kind, 2, "PUT")
    filled.put("new", DATA)
    assert proxy.injected == 2
    assert filled.get("new") == DATA
    proxy.fail(kind, ALWAYS, "PUT")
    with pytest.raises(ServerAway, match=r"answers (RequestTimeout|OperationAborted) for .*/new: injected; try again"):
        S3Store(filled.bucket, filled.prefix, replace(BUSY, patience=PATIENCE)).put("new", DATA)
    assert proxy.injected > 3


def test_a_refusal_is_not_tried_again(store, proxy):
    with pytest.raises(StorageError, match="missing"):
        store.get("nothing")
    assert [method for method, path in proxy.seen if "nothing" in path] == ["GET"]


def test_a_whole_answer_with_too_few_bytes_is_noticed(filled, proxy):
    proxy.fail("short", ALWAYS, "GET", part=f"{filled.prefix}/k")
    with pytest.raises(StorageError, match="truncated; expected 6000 bytes"):
        filled.get("k", 1000, 5000)


def test_an_answer_that_is_not_from_s3_is_told(filled, proxy):
    proxy.fail("html", ALWAYS)
    with pytest.raises(StorageError, match=r"cannot serve .* check CLIPTEA_S3_ENDPOINT"):
        list(filled.entries(""))
