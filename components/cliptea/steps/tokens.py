"""Computes CLIP tokens and region maps for a part of the views, in shards. The teacher step publishes all parts.

Region maps for a new clustering setting are computed without running CLIP, if the tokens to cluster are stored and no
embeddings of regions are wanted.
"""

from typing import TYPE_CHECKING, NamedTuple

from kfp import dsl
from pydantic import BaseModel

from cliptea import progress
from cliptea.data.shard_sets import find_sharded
from cliptea.manifest import Manifest, Output, fingerprint
from cliptea.messages import number_of
from cliptea.run import Run
from cliptea.steps.component import step
from cliptea.steps.split import Splits
from cliptea.storage import Store, open_store
from cliptea.teacher.outputs import (
    MadeBlock,
    ViewOutput,
    clustered_kind,
    clustering_key,
    tokens_fingerprint,
)  # fmt: skip

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
        progress.note("region maps are computed from stored tokens, so CLIP does not run")
    elif views.tokens in views.found and part == 0:
        new = [wanted for wanted in views.missing if wanted.clustering is not None]
        settings = number_of(len(new), "new clustering setting")
        described = any(wanted.form != "none" for wanted in new)
        why = "regions have to be described" if described else "the tokens to cluster are not stored"
        progress.note(f"{why}, so CLIP runs again for {settings}")
    return MadePart(blocks=make_part(views_job(store, run, splits, views), part, parts))


class ViewOutputs(NamedTuple):
    """The outputs for all views of the train shards."""

    tokens: Output
    clustered: dict[str, Output]  # tokens to cluster
    regions: dict[str, ViewOutput]  # by `clustering_key`

    @property
    def all(self) -> list[Output]:
        return [self.tokens, *self.clustered.values(), *(wanted.output for wanted in self.regions.values())]


class ViewSurvey(NamedTuple):
    """The tokens and region maps that a run needs, which of them exist, and which are missing."""

    outputs: ViewOutputs
    found: dict[Output, Manifest]
    missing: list[ViewOutput]
    stored: dict[str, Manifest] | None  # tokens for computing the missing region maps, or None: CLIP has to run

    @property
    def tokens(self) -> Output:
        """The output with the CLS tokens."""
        return self.outputs.tokens


def view_outputs(run: Run, split: str) -> ViewOutputs:
    """The outputs for all views that a run needs.

    Args:
        split: fingerprint of the train shards.
    """
    fp = tokens_fingerprint(run.config, split)
    clusterings = [variant.config.method.clustering for variant in run.whole.variants if variant.config.method.pseudo]
    regions = {
        clustering_key(clustering): ViewOutput(
            Output("regions", fingerprint("regions", clustering=clustering, tokens=fp)), clustering
        )
        for clustering in clusterings
    }
    kinds = [clustered_kind(clustering) for clustering in clusterings] or ["dense"]
    return ViewOutputs(Output("tokens", fp), {kind: Output(kind, fp) for kind in kinds}, regions)


def survey_views(store: Store, run: Run, splits: Splits) -> ViewSurvey:
    """Find the tokens and region maps of all views of the train shards."""
    outputs = view_outputs(run, splits.own.fingerprint)
    found = {output: manifest for output in outputs.all if (manifest := find_sharded(store, output))}
    missing = [wanted for wanted in outputs.regions.values() if wanted.output not in found]
    kinds = {clustered_kind(wanted.clustering) for wanted in missing if wanted.clustering is not None}
    stored = {kind: found[outputs.clustered[kind]] for kind in kinds if outputs.clustered[kind] in found}
    described = any(wanted.form != "none" for wanted in missing)
    if outputs.tokens in found and not described and stored.keys() == kinds:
        return ViewSurvey(outputs, found, missing, stored)
    if run.config.teacher.keep_dense:
        missing[:0] = [ViewOutput(output) for output in outputs.clustered.values() if output not in found]
    if outputs.tokens not in found:
        missing.append(ViewOutput(outputs.tokens))  # published last, because it marks the others as complete
    return ViewSurvey(outputs, found, missing, None)


def views_job(store: Store, run: Run, splits: Splits, views: ViewSurvey) -> "Job":
    """A description of the missing outputs for the workers. If CLIP has to run, the demo's teacher is trained here."""
    from cliptea.teacher.blocks import Job
    from cliptea.teacher.demo_clip import teacher_weights

    stored = None if views.stored is None else {kind: it.objects for kind, it in views.stored.items()}
    weights = "" if stored is not None else teacher_weights(store, run.config)
    own = splits.own
    return Job(store, run.config, own.objects, own.fingerprint, tuple(views.missing), stored, weights)
