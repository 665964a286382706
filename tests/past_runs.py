"""What runs leave behind: runs in MLflow, and outputs, lists and records in a store, small and real."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from mlflow import MlflowClient

from cliptea.board import StepStatus, status_key
from cliptea.data.shard_sets import ShardEntry, put_top_index
from cliptea.data.shard_writer import ShardWriter
from cliptea.manifest import Contents, Output, publish, put_object
from cliptea.storage import Store
from cliptea.tracking.experiment import experiment_id
from cliptea.tracking.run_times import Tag
from cliptea.uses import put_uses

HASH = "0123456789abcdef"
FILES = {
    "train": (f"model-{HASH}.safetensors", f"history-{HASH}.json"),
    "evaluate": (f"figures-{HASH}.npz", f"training_features-{HASH}.safetensors"),
    "part": (f"results-{HASH}.json",),
    "speed": (),
    "clip-time": (),
    "text": (f"text-{HASH}.safetensors",),
    "compare": ("report.html", "results.json"),
    "demo-teacher": ("open_clip_config.json", "open_clip_model.safetensors"),
    "initial": ("model.safetensors",),
}
SETS = {"split": ("train", "val"), "tokens": ("cls",), "dense": ("dense",), "value": ("value",)}
SETS |= {"key": ("key",), "regions": ("regions",)}
KINDS = (*FILES, *SETS)


def output(kind: str, name: object) -> Output:
    return Output(kind, hashlib.sha256(f"{kind}{name}".encode()).hexdigest()[:16])


def shards(store: Store, prefix: str, records: int = 3) -> list[ShardEntry]:
    """A shard for each record."""
    writer = ShardWriter(store, prefix, 1)
    for number in range(records):
        writer.add(f"{number}", {"npy": f"{prefix}{number}".encode()})
    return writer.close()


def make(store: Store, made: Output) -> None:
    """A complete output."""
    if made.kind in SETS:
        objects = {}
        for name in SETS[made.kind]:
            folder = f"{made.prefix}/{name}"
            objects |= put_top_index(store, folder, shards(store, folder))
    else:
        objects = {name: put_object(store, f"{made.prefix}/{name}", made.prefix.encode()) for name in FILES[made.kind]}
    publish(store, made, Contents(objects, {}))


def record(store: Store, run_id: str, outputs: Iterable[Output], job: str = "task") -> None:
    """The list of a run, a receipt, an entry for later, and a status."""
    run: Any = SimpleNamespace(tracking_run=run_id, job_id=f"{job}-{run_id}")
    put_uses(store, run, outputs)
    store.put(f"tracked/{run_id}/data-0123.json", b"{}")
    store.put(f"untold/{run_id}/data-0123.json", b"{}")
    status = StepStatus(step="train", started=0, updated=0).model_dump_json()
    store.put(status_key(run.job_id, "train"), status.encode())


def add_run(client: MlflowClient, status: str = "FINISHED", hours: float = 0, **tags: str) -> str:
    """A pipeline run in MLflow that ended this long ago. Returns its id; it is one of a single machine."""
    both = {Tag.KEY: "same", Tag.FINGERPRINT: "same"}
    run_id = client.create_run(experiment_id(client), tags=both | tags).info.run_id
    if status != "RUNNING":
        client.set_terminated(run_id, status, int((time.time() - 3600 * hours) * 1000))
    return run_id


def add_variant(client: MlflowClient, parent: str) -> str:
    """The run of a variant."""
    return client.create_run(experiment_id(client), tags={"mlflow.parentRunId": parent}).info.run_id


def register(client: MlflowClient, run_id: str | None, source: str, name: str = "cliptea-world") -> None:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    client.create_model_version(name, source, run_id)


def keys(store: Store) -> set[str]:
    return {entry.key for entry in store.entries("")}


def complete(store: Store) -> bool:
    """Whether every manifest in the store has all of its objects."""
    found = keys(store)
    manifests = [json.loads(store.get(key)) for key in found if key.endswith("/manifest.json")]
    return all(item["key"] in found for manifest in manifests for item in manifest["objects"].values())
