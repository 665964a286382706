"""Publishes the output of the teacher: the tokens and region maps of all parts, and the text features."""

from collections.abc import Iterable, Sequence
from typing import Any, List  # noqa: UP035 (kfp resolves no list[Artifact])

from kfp import dsl
from pydantic import BaseModel

from cliptea import progress
from cliptea.config import Config
from cliptea.data.catalogue import names_of
from cliptea.errors import StorageError
from cliptea.manifest import Manifest, find
from cliptea.run import Run
from cliptea.steps.clip_time import keep_clip_time
from cliptea.steps.component import step
from cliptea.steps.split import Splits
from cliptea.steps.tokens import MadePart, make_tokens, survey_views, views_job
from cliptea.storage import Store, open_store
from cliptea.teacher.demo_clip import teacher_weights
from cliptea.teacher.outputs import ClipTime, TextSet, text_output

__all__ = ["TeacherCache", "publish_cache", "teacher"]


@step()
def teacher(
    run: dsl.Input[dsl.Artifact],
    shards: dsl.Input[dsl.Artifact],
    made: dsl.Input[List[dsl.Artifact]],  # noqa: UP006
    cache: dsl.Output[dsl.Artifact],
):
    from cliptea.steps.common import read, run_step, write
    from cliptea.steps.split import Splits
    from cliptea.steps.teacher import publish_cache
    from cliptea.steps.tokens import MadePart

    def work(present):
        parts = [read(part, MadePart) for part in made]
        write(cache, publish_cache(present, read(shards, Splits), parts))

    run_step("teacher", work, run=run)


class TeacherCache(BaseModel):
    """The output of the teacher step.

    It holds the CLS tokens, the region maps by `clustering_key`, the text features by evaluation set, and how long CLIP
    took for the tokens, whichever run has made them.
    """

    tokens: Manifest
    clustered: dict[str, Manifest] = {}  # tokens to cluster by their kind, if they are stored
    regions: dict[str, Manifest]
    text: dict[str, Manifest]
    clip: ClipTime = ClipTime()


def publish_cache(run: Run, splits: Splits, made: Sequence[MadePart] = ()) -> TeacherCache:
    """Publish tokens and region maps, and compute the text features. Existing outputs are reused.

    Args:
        made: the parts from the tokens step. Blocks that they do not contain are computed here.
    """
    store = open_store()
    views, prompts = survey_views(store, run, splits), text_sets(run.config, splits)
    texts = {label: text_output(run.config, prompt) for label, prompt in prompts.items()}
    found = views.found | {output: manifest for output in texts.values() if (manifest := find(store, output))}
    wanted = {output: prompts[label] for label, output in texts.items() if output not in found}
    if not views.missing and not wanted:
        progress.reused()
    elif run.config.teacher.source.kind == "demo" and (wanted or views.stored is None):
        _require_its_clip(store, run.config, found.values())
    measured, made_here = ClipTime(), {}
    if views.missing:
        from cliptea.teacher.view_outputs import make_outputs

        parts = made or [make_tokens(run, splits)]
        handed = [block for part in parts for block in part.blocks]
        made_here, measured = make_outputs(views_job(store, run, splits, views), handed)
        found |= made_here
    if wanted:
        from cliptea.teacher.text import make_texts

        found |= make_texts(store, run.config, wanted)
    return TeacherCache(
        tokens=found[views.tokens],
        clustered={kind: found[it] for kind, it in views.outputs.clustered.items() if it in found},
        regions={key: found[wanted.output] for key, wanted in views.outputs.regions.items()},
        text={label: found[output] for label, output in texts.items()},
        clip=keep_clip_time(store, views.tokens, measured, anew=views.tokens in made_here),
    )


def _require_its_clip(store: Store, config: Config, found: Iterable[Manifest]) -> None:
    """Check that the demo's CLIP made the outputs that are there. It is trained anew if it was damaged.

    Raises:
        StorageError: another CLIP of the same settings has made them.
    """
    from cliptea.teacher.clip_files import weights_sha256

    present = weights_sha256(teacher_weights(store, config))
    for manifest in found:
        if manifest.info.get("clip_sha256") not in (None, "", present):
            raise StorageError(
                f"{store.uri(manifest.output.prefix)} is from an earlier CLIP of the demo, which was trained anew",
                "tokens and text features from one CLIP",
                "use another work directory or store",
            )


def text_sets(config: Config, splits: Splits) -> dict[str, TextSet]:
    """The text features that each evaluation set needs, by its name. The training data set comes first."""
    teacher = config.teacher
    own: dict[str, Any] = {
        "templates": teacher.templates,
        "text_features": teacher.text_features,
        "synonyms": config.data.synonyms,
        "unseen": splits.own.info["catalogue"]["unseen"],  # students are trained with this set alone
    }
    sources: dict[str, tuple[Manifest, dict[str, Any]]] = {config.data.name: (splits.own, own)}
    for name, further in config.evaluation.sets.items():
        given = further.model_dump(include={"templates", "text_features", "synonyms"})
        sources[name] = splits.others[name], given | {"templates": further.templates or teacher.templates}
    sets = {}
    for label, (split, given) in sources.items():
        classes = split.info["catalogue"]["classes"]
        named = names_of(classes, given["synonyms"]).items()
        synonyms = {name: names for name, names in named if names != [name]}  # or else the text features are the same
        known: dict[str, Any] = given | {"classes": classes, "synonyms": synonyms}
        sets[label] = TextSet(**known)
    return sets
