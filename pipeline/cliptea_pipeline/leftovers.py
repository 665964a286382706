"""What a store holds that no kept run needs. Nothing is deleted here.

Only objects with the names in `cliptea.steps.store_folder` are ever found, and only if the list of a run names their
output. Everything else in a store is somebody else's, or of a version of cliptea that kept no lists.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from pydantic import ValidationError

from cliptea.data.shard_sets import find_sharded, read_top_index
from cliptea.errors import StorageError
from cliptea.manifest import Output, find
from cliptea.sealed import Damaged
from cliptea.steps.store_folder import OBJECT, RECORD, SCRATCH, SHARDED, SHIPPED, STATUS
from cliptea.storage import Entry, Store
from cliptea.tracking.kept import RUNNING, Kept
from cliptea.uses import LISTS, Uses, read_uses

__all__ = ["Group", "Leftovers", "Lists", "find_leftovers", "read_lists", "runs_of"]

RECORDS = "records of runs"


class Lists(NamedTuple):
    """The lists of a store by run. A list that cannot be read is None."""

    by_run: dict[str, dict[str, Uses | None]]  # by key
    seen: set[Entry]

    def outputs(self, runs: Collection[str]) -> set[Output]:
        """All outputs that the lists of these runs name."""
        return {output for run in runs for uses in self.by_run.get(run, {}).values() if uses for output in uses.outputs}

    def jobs(self, runs: Collection[str]) -> set[str]:
        """The pipeline jobs of these runs."""
        return {uses.job_id for run in runs for uses in self.by_run.get(run, {}).values() if uses}


class Group(NamedTuple):
    """Objects that are deleted together, in this order."""

    owner: Output | str  # an output, a run by its id in MLflow, or a pipeline job by its id
    what: str  # for the table
    entries: list[Entry]


class Leftovers(NamedTuple):
    groups: list[Group]
    kept: list[Entry]  # objects of kept runs
    others: list[Entry]  # objects that no list names


def read_lists(store: Store, known: Collection[Entry] = ()) -> Lists:
    """Read all lists that are not `known` in this version."""
    by_run: dict[str, dict[str, Uses | None]] = defaultdict(dict)
    seen = set()
    for entry in store.entries(LISTS):
        matched = RECORD.fullmatch(entry.key)
        if matched is None:
            continue
        seen.add(entry)
        if entry not in known:
            try:
                by_run[matched[2]][entry.key] = read_uses(store, entry.key)
            except (Damaged, ValidationError):
                by_run[matched[2]][entry.key] = None
    return Lists(dict(by_run), seen)


def runs_of(entries: Sequence[Entry]) -> set[str]:
    """The runs in MLflow that have left records in a store."""
    return {matched[2] for entry in entries if (matched := RECORD.fullmatch(entry.key))}


def find_leftovers(store: Store, entries: Sequence[Entry], lists: Lists, kept: Kept) -> Leftovers:
    """Divide all objects of a store into those that can be deleted, those that are kept, and those of others.

    An output can be deleted if a list names it, and no list of a kept run. Runs of which only models are kept do not
    keep shards, which are data, tokens and region maps. Complete outputs that no running run names may have left-over
    objects, such as checkpoints and the shards of blocks. These can be deleted as well.

    Args:
        entries: all objects of the store.

    Raises:
        StorageError: a kept run has no list, or one that cannot be read, so that it is unknown what it uses.
    """
    known = runs_of(entries) | lists.by_run.keys()  # a run may have begun between the two readings
    both = kept.whole.keys() | kept.models.keys()
    _require_lists(store, lists, known & both)
    dropped, at_work = known - both, lists.outputs([run for run, why in kept.whole.items() if why == RUNNING])
    needed = lists.outputs(kept.whole) | {made for made in lists.outputs(kept.models) if made.kind not in SHARDED}
    unneeded, kept_jobs = lists.outputs(known) - needed, lists.jobs(both)
    jobs = lists.jobs(dropped) - kept_jobs
    outputs: dict[Output, list[Entry]] = defaultdict(list)
    records: dict[str, list[Entry]] = defaultdict(list)  # by run
    statuses: dict[str, list[Entry]] = defaultdict(list)  # by pipeline job
    keep: list[Entry] = []
    others: list[Entry] = []
    for entry in entries:
        output, run, job = _owner(entry.key)
        if output is not None and output in unneeded | needed:
            outputs[output].append(entry)
        elif run in dropped:
            records[run].append(entry)
        elif job in jobs:
            statuses[job].append(entry)
        else:
            (keep if run in both or job in kept_jobs else others).append(entry)
    groups = []
    for output, found in sorted(outputs.items()):
        if output in unneeded:
            # The manifest comes first, so that a run finds a complete output or none.
            found.sort(key=lambda entry, first=output.manifest_key: entry.key != first)
            groups.append(Group(output, output.kind, found))
            continue
        parts = None if output in at_work else _parts(store, output)
        rest = [
            entry
            for entry in found
            if parts is not None and entry.key not in parts and not SHIPPED.fullmatch(entry.key)
        ]
        keep += [entry for entry in found if entry not in rest]
        if rest:
            groups.append(Group(output, f"{output.kind}: unused parts", rest))
    for left in (statuses, records):  # the lists come last: a later call needs them to go on
        groups += [Group(owner, RECORDS, found) for owner, found in sorted(left.items())]
    return Leftovers(groups, keep, others)


def _require_lists(store: Store, lists: Lists, kept: Collection[str]) -> None:
    for run in sorted(kept):
        found = lists.by_run.get(run, {})
        unread = [key for key, uses in found.items() if uses is None]
        if unread or not found:
            what = f"the list {store.uri(unread[0])} cannot be read" if unread else f"the store has no list for {run}"
            raise StorageError(
                f"it is unknown what the MLflow run {run} uses: {what}",
                "a list for every run that is kept",
                "run it again with the same settings, or delete it in MLflow if it is not needed",
            )


def _owner(key: str) -> tuple[Output | None, str, str]:
    """The output, the run or the pipeline job that the object with this key belongs to."""
    if OBJECT.fullmatch(key):
        kind, fingerprint, *_ = key.split("/")
        return Output(kind, fingerprint), "", ""
    if scratch := SCRATCH.fullmatch(key):
        return Output(scratch[1], scratch[2]), "", ""
    if record := RECORD.fullmatch(key):
        return None, record[2], ""
    status = STATUS.fullmatch(key)
    return None, "", status[1] if status else ""


def _parts(store: Store, output: Output) -> set[str] | None:
    """The keys that a complete output consists of, or None if it is not complete, and a run may go on with it."""
    if output.kind not in SHARDED:
        done = find(store, output)
        return done and {output.manifest_key, *(item.key for item in done.objects.values())}
    done = find_sharded(store, output)
    if done is None:
        return None
    shards = [shard for item in done.objects.values() for shard in read_top_index(store, item, keep=True)]
    items = [*done.objects.values(), *(item for shard in shards for item in (shard.tar, shard.index))]
    return {output.manifest_key, *(item.key for item in items)}
