"""A real S3 server is killed while it is used, for longer than a few quick tries would bear, and comes back."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from s3_server import BUCKET, QUICK

from cliptea import progress
from cliptea.data.shard_sets import find_sharded, put_top_index
from cliptea.data.shard_writer import ShardWriter
from cliptea.data.shards import ShardReader
from cliptea.errors import ServerAway
from cliptea.manifest import Contents, Output, publish
from cliptea.storage import open_store
from cliptea.storage.s3_store import S3Store

DATA = np.random.default_rng(0).bytes(300_000)
AWAY = 11.0  # seconds; five tries with pauses of 1, 2 and 4 seconds do not outlive it


@pytest.fixture
def told(environment):
    lines = []
    environment.setattr(progress, "warn", lines.append)
    environment.setattr(progress, "note", lines.append)
    return lines


def restart(server, seconds=AWAY):
    """Kill it now, and start it after that time."""
    server.kill()
    threading.Timer(seconds, server.start).start()


def test_reads_writes_and_lists_wait_for_a_server_that_is_away(own, mortal, told):
    own.put("k", DATA)
    image = np.random.default_rng(1).bytes(1000)
    writer = ShardWriter(own, "split/f/train", 1 << 20)
    for number in range(4):
        writer.add(f"image{number}", {"jpg": image})
    objects = put_top_index(own, "split/f/train", writer.close())
    manifest = publish(own, Output("split", "f"), Contents(objects, {}))
    reader = ShardReader(own, manifest.objects, "train")
    restart(mortal)
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        done = [
            pool.submit(own.put, "new", DATA),
            pool.submit(own.get, "k"),
            pool.submit(own.size, "k"),
            pool.submit(lambda: next(own.entries("")).key),
            pool.submit(reader.read, "image2", "jpg"),
            pool.submit(lambda: find_sharded(own, Output("split", "f")).fingerprint),
        ]
        _, *got = [future.result(60) for future in done]
    assert time.monotonic() - began >= AWAY
    assert got == [DATA, len(DATA), "k", image, "f"]
    assert own.get("new") == DATA
    away, back = told  # one line for all of them
    assert away.startswith(
        f"S3 at http://{mortal.host} does not answer (Connection refused); trying again for another "
    )
    assert back.startswith(f"S3 at http://{mortal.host} answers again, after ")


def test_a_server_that_stays_away_is_told_when_the_patience_is_over(own, mortal, environment):
    mortal.kill()
    environment.setenv("CLIPTEA_PATIENCE", "1.5")
    began = time.monotonic()
    with pytest.raises(ServerAway) as caught:
        own.get("k")
    assert 1.5 <= time.monotonic() - began < 3
    assert str(caught.value) == (
        f"S3 cannot be reached at http://{mortal.host}: Connection refused; expected a running server; "
        "check CLIPTEA_S3_ENDPOINT, or wait longer with CLIPTEA_PATIENCE"
    )
    began = time.monotonic()
    with pytest.raises(ServerAway):
        open_store(f"s3://{BUCKET}/run", patience=0.0).get("k")
    assert time.monotonic() - began < 0.5


def test_outputs_are_not_made_anew_because_the_store_is_away(own, mortal, environment):
    objects = put_top_index(own, "split/f/train", ShardWriter(own, "split/f/train", 1 << 20).close())
    publish(own, Output("split", "f"), Contents(objects, {}))
    get = S3Store.get

    def dying(store, key, *part):
        if "manifest" not in key:
            mortal.kill()
        return get(store, key, *part)

    environment.setenv("CLIPTEA_PATIENCE", "0.2")
    environment.setattr(S3Store, "get", dying)
    with pytest.raises(ServerAway):
        find_sharded(own, Output("split", "f"))


@pytest.mark.parametrize("kind", ["403", "404"])
def test_what_the_server_refuses_is_refused_at_once(store, proxy, kind):
    patient = S3Store(store.bucket, store.prefix, replace(QUICK, patience=60))
    proxy.fail(kind, 1, "GET")
    began = time.monotonic()
    with pytest.raises(Exception, match=r"denies access|is missing") as caught:
        patient.get("k")
    assert time.monotonic() - began < 2
    assert not caught.value.temporary
    assert proxy.injected == 1
