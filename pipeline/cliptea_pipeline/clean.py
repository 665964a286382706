"""`cliptea clean`: deletes what no kept run needs, from a store and from the cache of this machine."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cliptea import env, progress
from cliptea.errors import StorageError
from cliptea.manifest import Output
from cliptea.messages import number_of, plain
from cliptea.steps.store_folder import delete_partial_objects
from cliptea.storage import FileStore, Store, open_store
from cliptea.storage.base import Entry
from cliptea.storage.unused import Cached, drop, unused
from cliptea.tracking.address import require_server
from cliptea.tracking.database import DATABASE, database_uri
from cliptea.tracking.kept import UNLISTED, Kept, kept_runs
from cliptea_pipeline.leftovers import Group, Leftovers, Lists, find_leftovers, read_lists, runs_of
from cliptea_pipeline.workdir import STORE, held, is_workdir, require_workdir

__all__ = ["clean", "delete"]

LOOK_SECONDS = 0.5  # between two looks for runs that have begun; their first step that reuses outputs starts later
CACHE_SECONDS = 86400.0  # what was used in this time is never deleted from the cache
SHOWN = 20  # runs


def clean(root: Path, newest: int, seconds: float, jobs: Mapping[str, str] | None, yes: bool) -> None:
    """Show what can be deleted, and delete it if `yes` is set.

    Args:
        root: the work directory. Its store and its MLflow are used unless the environment names others.
        newest, seconds, jobs: as for `kept_runs`.

    Raises:
        StorageError: the folder is not a work directory; the store is not available, or kept runs have no list in it.
        TrackingError: MLflow is not available, so it is unknown which outputs its runs and models use.
        ClipteaError: a run is using the work directory.
    """
    with _opened(root, yes) as store:
        entries = list(store.entries(""))
        lists = read_lists(store)
        kept = kept_runs(runs_of(entries) | lists.by_run.keys(), newest, seconds, jobs)
        leftovers = find_leftovers(store, entries, lists, kept)
        cached = unused(max(seconds, CACHE_SECONDS))
        console = Console(highlight=False)
        _show(console, leftovers, kept, cached)
        if yes:
            delete_partial_objects(store)
        if not leftovers.groups and not cached:
            return
        if not yes:
            console.print("nothing was deleted; add --yes to delete this")
            return
        done = delete(store, leftovers.groups, lists)
        dropped = [item for item in cached if drop(item)]
        if isinstance(store, FileStore) and not env.STORE.get():  # no run can be writing to it
            store.drop_empty_folders({entry.key for entry in done})
        told = f"deleted {number_of(len(done), 'object')} of the store, {_size(done)}"
        freed = _bytes(sum(item.size for item in dropped))
        console.print(told + (f", and {freed} of the cache" if cached else ""))
        if left := len(cached) - len(dropped):
            why = "because they belong to another user, are in use, or were just used"
            progress.note(f"{left} of {number_of(len(cached), 'object')} of the cache were not deleted, {why}")


@contextmanager
def _opened(root: Path, yes: bool) -> Iterator[Store]:
    """The store, with MLflow's address in the environment. If `yes` is set, no run can start in the work directory."""
    require_server()
    if not (env.STORE.get() and os.environ.get("MLFLOW_TRACKING_URI")):
        require_workdir(root)
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        file = root.resolve() / DATABASE
        if not file.is_file():
            raise StorageError(
                f"the MLflow database {file} does not exist, so it is unknown which outputs its runs and models use"
            )
        os.environ["MLFLOW_TRACKING_URI"] = database_uri(file)
    with held(root) if yes and is_workdir(root) else nullcontext():
        yield open_store(env.STORE.get() or (root.resolve() / STORE).as_uri())


def delete(store: Store, groups: Sequence[Group], lists: Lists) -> list[Entry]:
    """Delete the objects of `groups` in order. Returns those that were deleted.

    It can be killed at any time and called again. If a run begins after `lists` were read, what it uses is kept as soon
    as its list is found.
    """
    guard, done, spared = _Guard(store, lists), [], set()
    with progress.bar("deleting", sum(len(group.entries) for group in groups), "object") as bar:
        for group in groups:
            guard.look()
            for entry in group.entries:
                if guard.protects(group.owner):
                    spared.add(group.owner)
                    break
                store.delete(entry.key)
                done.append(entry)
                bar.update(1)
    if spared:
        progress.note(f"{number_of(len(spared), 'output')} not deleted, because a run has begun that uses them")
    return done


class _Guard:
    """Looks for the lists of runs that have begun since `lists` were read."""

    def __init__(self, store: Store, lists: Lists) -> None:
        self._store, self._known = store, lists.seen
        self._protected: set[Output | str] = set()
        self._looked = 0.0

    def look(self) -> None:
        new = read_lists(self._store, self._known)
        runs = new.by_run.keys()
        self._protected |= new.outputs(runs) | runs | new.jobs(runs)
        self._known, self._looked = new.seen, time.monotonic()

    def protects(self, owner: Output | str) -> bool:
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self.look()
        return owner in self._protected


def _show(console: Console, leftovers: Leftovers, kept: Kept, cached: Sequence[Cached]) -> None:
    lines = [f"kept: the run {run}, because {why}" for run, why in kept.whole.items()]
    lines += [f"kept: models and results of the run {run}, because {why}" for run, why in kept.models.items()]
    lines[SHOWN:] = [f"kept: {len(lines) - SHOWN} more runs"] if len(lines) > SHOWN else []
    if unlisted := sum(why == UNLISTED for why in kept.whole.values()):
        lines.append(
            f"kept: {number_of(unlisted, 'run')} of a cluster that this Kubeflow Pipelines does not list, perhaps of "
            "another namespace; delete in MLflow those that nobody needs"
        )
    for line in lines:
        console.print(plain(line), markup=False, soft_wrap=True)
    owners: dict[str, set[Output | str]] = defaultdict(set)
    found: dict[str, list[Entry]] = defaultdict(list)
    for group in leftovers.groups:
        owners[group.what].add(group.owner)
        found[group.what] += group.entries
    table = Table("not needed", "number", "objects", "size", box=None)
    for what, entries in sorted(found.items()):
        table.add_row(what, str(len(owners[what])), str(len(entries)), _size(entries))
    if cached:
        kinds = Counter(item.path.is_dir() for item in cached)
        table.add_row("cache of this machine", str(kinds.total()), "", _bytes(sum(item.size for item in cached)))
    if table.row_count:
        console.print(table)
    else:
        console.print("there is nothing to delete")
    console.print(f"needed: {number_of(len(leftovers.kept), 'object')} of the store, {_size(leftovers.kept)}")
    if leftovers.others:
        console.print(
            f"not ours: {number_of(len(leftovers.others), 'object')} that no list of a run names, "
            f"{_size(leftovers.others)}; never deleted"
        )


def _size(entries: Sequence[Entry]) -> str:
    return _bytes(sum(entry.size for entry in entries))


def _bytes(size: float) -> str:
    """A size such as 512 B, 3.4 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
