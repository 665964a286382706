"""The steps tokens and teacher: they make what is missing of a run's `TeacherCache`.

Torch is imported only when something is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cliptea import progress
from cliptea.data.split import Splits
from cliptea.manifest import find
from cliptea.storage import open_store
from cliptea.teacher.cache import TeacherCache, survey, text_output, text_sets

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = ["build_cache", "make_blocks"]


def make_blocks(run: Run, splits: dict[str, Any], part: int = 0, parts: int = 1) -> dict[str, Any]:
    """Make this part of the blocks of views that are missing; returns what `build_cache` is given of them."""
    store, own = open_store(), Splits.model_validate(splits).own
    found = survey(store, run, own)
    if not found.missing:
        progress.reused()
        return {"blocks": []}
    from cliptea.teacher.view_outputs import make_part

    if found.stored is not None and part == 0:
        progress.note("region maps are made from the stored dense tokens; CLIP does not run")
    if found.tokens in found.found and found.dense not in found.found and part == 0:
        new = sum(wanted.clustering is not None for wanted in found.missing)
        progress.note(f"no dense tokens are kept: CLIP runs again for {new} new clustering setting(s)")
    made = make_part(store, run, own, found.missing, found.stored, part, parts)
    return {"blocks": [block.model_dump(mode="json") for block in made]}


def build_cache(run: Run, splits: dict[str, Any], made: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Publish tokens and region maps, and make text features, as far as they are missing.

    Args:
        run: its settings.
        splits: a dumped `Splits`.
        made: what `make_blocks` returned for each part; what they lack is made here, and all of it without any.

    Returns:
        A dumped `TeacherCache`.
    """
    store, shards = open_store(), Splits.model_validate(splits)
    views = survey(store, run, shards.own)
    prompts = text_sets(run.config, shards)
    texts = {label: text_output(run.config, prompt) for label, prompt in prompts.items()}
    found = views.found | {output: there for output in texts.values() if (there := find(store, output))}
    wanted = {output: prompts[label] for label, output in texts.items() if output not in found}
    if not views.missing and not wanted:
        progress.reused()
    else:
        from cliptea.teacher.blocks import MadeBlock
        from cliptea.teacher.stored_text import make_texts
        from cliptea.teacher.view_outputs import make_outputs

        if views.missing and not made:
            made = [make_blocks(run, splits)]
        handed = [MadeBlock.model_validate(block) for part in made for block in part["blocks"]]
        found |= make_outputs(store, run, shards.own, views.missing, views.stored, handed)
        found |= make_texts(store, run.config, wanted)
    cache = TeacherCache(
        tokens=found[views.tokens],
        dense=found.get(views.dense),
        regions={key: found[output] for key, output in views.regions.items()},
        text={label: found[output] for label, output in texts.items()},
    )
    return cache.model_dump()
