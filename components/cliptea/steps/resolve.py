"""Resolves preset and overrides into a run with its config, data digest and variants. This step is never cached."""

from collections.abc import Iterable, Mapping
from typing import Any

from kfp import dsl

from cliptea import env, progress, settings, variant_groups
from cliptea.config import Config
from cliptea.data.catalogue import Catalogue, known_to
from cliptea.data.left_out import count, left_out_lines
from cliptea.data.shard_cache import open_cache
from cliptea.errors import ConfigError, described
from cliptea.manifest import Output, fingerprint
from cliptea.names import as_known, visible
from cliptea.parts import Part
from cliptea.run import Run, Variant, expand, require_room
from cliptea.steps.component import step
from cliptea.steps.initial import Initial, put_initial, read_initial
from cliptea.steps.preflight import check
from cliptea.steps.split import BOTH, VAL
from cliptea.steps.store_folder import claim_store, delete_partial_objects
from cliptea.storage import open_store
from cliptea.uses import put_uses

__all__ = ["resolve", "start_run"]


@step()
def resolve(
    preset: str,
    config: str,
    overrides: list,
    skip_unchanged: bool,
    part: str,
    job_id: str,
    run: dsl.Output[dsl.Artifact],
) -> str:
    from cliptea.steps.common import run_step, write
    from cliptea.steps.resolve import skip, start_run

    def work() -> str:
        present = start_run(preset, overrides, job_id, config, part)
        write(run, present)
        return "unchanged" if skip_unchanged and skip(present) else "changed"

    return run_step("resolve", work, job_id=job_id)


def start_run(preset: str, overrides: list[str], job_id: str, text: str = "", part: str = "") -> Run:
    """Check the settings, compute the digest of the data, and open or resume the run in MLflow.

    Args:
        preset, overrides, text: as for `settings.load`.
        part: such as 2/50 for a run that trains the second of 50 shares of the students; "" for all.
    """
    from cliptea.data.datasets import data_digest, open_dataset
    from cliptea.steps.planned import planned
    from cliptea.tracking import runs as tracked
    from cliptea.tracking.metric_names import renamed_metrics
    from cliptea.tracking.mlflow_client import persist

    config = settings.load(preset, overrides, text)
    for group in variant_groups.unused_groups(config):
        progress.warn(f"variant_groups.{group} is not used, because variants does not list {group}")
    catalogue = check(config)
    variants, own_part = expand(config), Part.parse(part)
    room = 0 if env.in_local_run() else env.STUDENTS.count()
    require_room(len(variants), room or len(variants), own_part.of)
    store = open_store()
    claim_store(store)
    delete_partial_objects(store)
    open_cache(store)  # reports invalid addresses and sizes before any work starts
    own = open_dataset(config.data)
    digest = data_digest(config.data)
    sets = {name: wanted.data(name, config.data) for name, wanted in config.evaluation.sets.items()}
    further = {name: open_dataset(wanted) for name, wanted in sets.items()}
    others = {name: data_digest(wanted, ["val"]) for name, wanted in sets.items()}
    _check_figures(config, [own.ids("train"), own.ids("val"), *(dataset.ids("val") for dataset in further.values())])
    models = persist(lambda: read_initial((variant.config for variant in variants), catalogue.unseen))
    _warn_of_held_out(variants)
    _warn_of_masks({name: dataset.catalogue for name, dataset in further.items()}, catalogue, models.values())
    start = {"initial": {name: model.manifest.fingerprint for name, model in models.items()}} if models else {}
    run = Run(
        config=config,
        data_digest=digest,
        evaluation_digests=others,
        fingerprint="",
        job_id=job_id,
        tracking_run="",
        initial={name: model.manifest for name, model in models.items()},
        variants=variants,
    )
    uses = planned(run)  # of all parts, so that none loses what another one needs
    # Outputs also depend on files, such as weights, and on the versions of steps. If one changes, this is another run.
    known = {"config": _counting(config, variants), "data": digest, "others": others, "outputs": sorted(set(uses))}
    run = run.model_copy(update={"fingerprint": fingerprint("run", **known, **start)})
    run = _with_share(run, own_part)
    run = run.model_copy(update={"tracking_run": persist(lambda: tracked.open_parent(run))})
    put_uses(store, run, [*uses, *run.parts])
    put_initial(store, models)
    for name, metric in renamed_metrics(catalogue).items():
        progress.note(f"MLflow cannot take the class name {name!r} in a metric; its IoU is logged there as {metric}")
    progress.publish(tracking_run=run.tracking_run)
    _sweep()
    return run


def _with_share(run: Run, part: Part) -> Run:
    """The run with the students of a part, and a fingerprint that belongs to this part.

    Args:
        run: with all students.
    """
    if part.of == 1:
        return run
    known = {"run": run.fingerprint, "of": part.of}
    parts = [Output("part", fingerprint("part", **known, number=number)) for number in range(1, part.of + 1)]
    share = {"variants": part.share(run.variants), "fingerprint": parts[part.number - 1].fingerprint}
    return run.model_copy(update={"part": part, "parts": parts, **share})


def _counting(config: Config, variants: list[Variant]) -> dict[str, Any]:
    """The settings in the fingerprint of a run. Settings that most runs do not use only count if they are used.

    Groups of variants count by the students that they make.
    """
    settings = _used(config)
    used = config.variant_groups.keys() & {name.partition("/")[0] for name in config.variants}
    words = {"members": {"__all__": {"about"}}}
    students = [
        variant.model_dump(exclude=words, exclude_defaults=True) | {"config": _used(variant.config)}
        for variant in variants
    ]
    settings["variant_groups"] = students if used else []
    sections = [settings["data"], *settings["evaluation"]["sets"].values()]
    for section, name in ((settings, "variant_groups"), *((section, "synonyms") for section in sections)):
        if not section[name]:
            del section[name]
    return settings


def _used(config: Config) -> dict[str, Any]:
    """The settings of a run or a student, without those that are not used."""
    settings = config.model_dump(exclude={"train": config.train.unused})
    evaluation, data = settings["evaluation"], settings["data"]
    for section, name, usual in (
        (evaluation, "precision", "float32"),
        (evaluation, "batch_size", None),
        (evaluation, "workers", None),
        (data, "max_bad", 0),
    ):
        if section[name] == usual:
            del section[name]
    return settings


def _check_figures(config: Config, ids: list[list[str]]) -> None:
    """Check that each image in `evaluation.figures` exists in one of the splits, whose names are `ids`.

    Raises:
        ConfigError: an image does not exist.
    """
    wanted = config.evaluation.figures
    if isinstance(wanted, int):
        return
    known = [name for names in ids for name in names]
    strange = sorted(set(as_known(wanted, known)).difference(known))
    if strange:
        stems = {name.rpartition(".")[0] for name in strange} & {*known}
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        raise ConfigError(
            f"evaluation.figures names images that do not exist: {', '.join(map(visible, strange[:5]))}{more}",
            f"names without suffix, such as {', '.join(dict.fromkeys([*ids[1][:2], *ids[0][:1]]))}",
            f"perhaps {', '.join(sorted(stems)[:5])}" if stems else "",
        )


def _warn_of_held_out(variants: Iterable[Variant]) -> None:
    """Warn of models to start from that may have learned from the images on which their students are validated."""
    for given in dict.fromkeys(v.config.train.init_from for v in variants if v.config.train.validate_every):
        if given is not None:
            progress.warn(
                f"the model in train.init_from={given} may have learned from the images that are held out for "
                "validation, so heldout_miou_seen may be too high"
            )


def _warn_of_masks(others: Mapping[str, Catalogue], own: Catalogue, initial: Iterable[Initial]) -> None:
    """Warn of classes with masks in training that a further evaluation set calls unseen."""
    learned = own.seen + [name for model in initial for name in model.manifest.info["seen"]]
    for name, catalogue in others.items():
        if masks := known_to(catalogue.unseen, learned):
            progress.warn(
                f"evaluation.sets.{name} calls {', '.join(masks)} unseen, but training has masks of "
                f"{'this class' if len(masks) == 1 else 'these classes'}, so its unseen mIoU and hIoU are optimistic"
            )


def _sweep() -> None:
    """Close earlier runs that are still open although they ended. Errors do not stop the current run."""
    from cliptea.tracking.state import close_silent_runs

    try:
        for closed in close_silent_runs():
            progress.note(f"earlier run {closed}")
    except Exception as error:
        progress.warn(f"could not close earlier runs that are still open: {described(error)}")


def skip(run: Run) -> bool:
    """Mark the run as skipped if a finished run had the same fingerprint. Returns whether it is skipped."""
    from cliptea.tracking.mlflow_client import persist
    from cliptea.tracking.state import mark_unchanged

    earlier = persist(lambda: mark_unchanged(run))
    if earlier:
        progress.note(f"skipped: data, settings, weights and versions of steps have not changed since run {earlier}")
        _warn_of_left_out(run.config)
    return earlier is not None


def _warn_of_left_out(config: Config) -> None:
    """Warn of what the data sets leave out. It may have changed although the data that are used have not."""
    from cliptea.data.datasets import open_dataset

    sets = {name: (further.data(name, config.data), VAL) for name, further in config.evaluation.sets.items()}
    for name, (data, parts) in {"": (config.data, BOTH), **sets}.items():
        for line in left_out_lines(count(open_dataset(data).left_out(parts)), " of the data"):
            progress.warn(f"{name}: {line}" if name else line)
