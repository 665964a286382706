"""Computes CLIP tokens and region maps for a part of the views, in shards. The teacher step publishes all parts.

Region maps for a new clustering setting are computed from the stored dense tokens, without running CLIP.
"""

from typing import TYPE_CHECKING, NamedTuple

from kfp import dsl
from pydantic import BaseModel

from cliptea import progress
from cliptea.data.shard_sets import find_sharded
from cliptea.manifest import Manifest, Output, fingerprint
from cliptea.run import Run
from cliptea.steps.component import step
from cliptea.steps.split import Splits
from cliptea.storage import Store, open_store
from cliptea.teacher.outputs import MadeBlock, ViewOutput, clustering_key, tokens_fingerprint

if TYPE_CHECKING:
    from cliptea.teacher.blocks import Job

__all__ = ["MadePart", "ViewSurvey", "make_tokens", "survey_views", "tokens", "view_outputs", "views_job"]


@step()
def tokens(
    run: dsl.Input[dsl.Artifact],
    shards: dsl.Input[dsl.Artifact],
    part: int,
    parts: int,
    made: dsl.Output[dsl.Artifact],
):
    from cliptea.steps.common import read, run_step, write
    from cliptea.steps.split import Splits
    from cliptea.steps.tokens import make_tokens

    label = f"part {part + 1} of {parts}" if parts > 1 else ""
    run_step(
        "tokens",
        lambda present: write(made, make_tokens(present, read(shards, Splits), part, parts)),
        run=run,
        label=label,
        of=parts,
    )


class MadePart(BaseModel):
    """The output of one part, for the teacher step."""

    blocks: list[MadeBlock]


def make_tokens(run: Run, splits: Splits, part: int = 0, parts: int = 1) -> MadePart:
    """Compute this part of the missing blocks of views. Torch is only imported if a block is missing."""
    store = open_store()
    views = survey_views(store, run, splits)
    if not views.missing:
        progress.reused()
        return MadePart(blocks=[])
    if views.stored is None and run.config.teacher.source.kind == "demo":
        if part > 0:  # the demo's teacher is trained on first use, so only one part may use it
            return MadePart(blocks=[])
        parts = 1
    from cliptea.teacher.view_outputs import make_part

    if views.stored is not None and part == 0:
        progress.note("region maps are computed from the stored dense tokens, so CLIP does not run")
    if views.tokens in views.found and views.dense not in views.found and part == 0:
        new = sum(wanted.clustering is not None for wanted in views.missing)
        settings = f"{new} new clustering setting{'s' * (new != 1)}"
        progress.note(f"dense tokens are not stored, so CLIP runs again for {settings}")
    return MadePart(blocks=make_part(views_job(store, run, splits, views), part, parts))


class ViewSurvey(NamedTuple):
    """The tokens and region maps that a run needs, which of them exist, and which are missing."""

    tokens: Output
    dense: Output
    regions: dict[str, Output]  # by `clustering_key`
    found: dict[Output, Manifest]
    missing: list[ViewOutput]

    @property
    def stored(self) -> Manifest | None:
        """Dense tokens for computing the missing region maps, or None if CLIP has to run."""
        return self.found.get(self.dense) if self.tokens in self.found else None


class ViewOutputs(NamedTuple):
    """The outputs for all views of the train shards."""

    tokens: Output
    dense: Output
    regions: dict[str, ViewOutput]  # by `clustering_key`


def view_outputs(run: Run, split: str) -> ViewOutputs:
    """The outputs for all views that a run needs.

    Args:
        split: fingerprint of the train shards.
    """
    fp = tokens_fingerprint(run.config, split)
    methods = [variant.config.method for variant in run.variants]
    regions = {
        clustering_key(method.clustering): ViewOutput(
            Output("regions", fingerprint("regions", clustering=method.clustering, tokens=fp)), method.clustering
        )
        for method in methods
        if method.pseudo
    }
    return ViewOutputs(Output("tokens", fp), Output("dense", fp), regions)


def survey_views(store: Store, run: Run, splits: Splits) -> ViewSurvey:
    """Find the tokens and region maps of all views of the train shards."""
    tokens, dense, regions = view_outputs(run, splits.own.fingerprint)
    looked_for = [tokens, dense, *(wanted.output for wanted in regions.values())]
    found = {output: manifest for output in looked_for if (manifest := find_sharded(store, output))}
    missing = [wanted for wanted in regions.values() if wanted.output not in found]
    clip_runs = dense not in found and (tokens not in found or missing)
    if clip_runs and run.config.teacher.keep_dense:
        missing.insert(0, ViewOutput(dense))
    if tokens not in found:
        missing.append(ViewOutput(tokens))  # published last, because it marks the others as complete
    return ViewSurvey(tokens, dense, {key: wanted.output for key, wanted in regions.items()}, found, missing)


def views_job(store: Store, run: Run, splits: Splits, views: ViewSurvey) -> "Job":
    """A description of the missing outputs for the workers. If CLIP has to run, the demo's teacher is trained here."""
    from cliptea.teacher.blocks import Job
    from cliptea.teacher.demo_clip import teacher_weights

    dense = views.stored and views.stored.objects
    weights = "" if dense else teacher_weights(store, run.config)
    own = splits.own
    return Job(store, run.config, own.objects, own.fingerprint, tuple(views.missing), dense, weights)
