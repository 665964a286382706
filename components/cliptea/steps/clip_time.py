"""The time that CLIP took for the tokens of a run, an output of the teacher step."""

from pydantic import ValidationError

from cliptea.manifest import Contents, Output, find, fingerprint, publish
from cliptea.storage import Store
from cliptea.teacher.outputs import ClipTime

__all__ = ["clip_time_output", "keep_clip_time"]


def clip_time_output(tokens: Output) -> Output:
    """The output for these tokens. It is not a result: among other outputs, only the report contains it."""
    return Output("clip-time", fingerprint("clip-time", tokens=tokens.fingerprint))


def keep_clip_time(store: Store, tokens: Output, measured: ClipTime, anew: bool = False) -> ClipTime:
    """The time that is stored for these tokens, or else the one that was now measured, which is then stored.

    Args:
        measured: without views if CLIP did not run. It then only replaces a record that is missing or damaged.
        anew: whether the tokens were computed just now, so that an earlier record belongs to other tokens.
    """
    output = clip_time_output(tokens)
    found = _stored(store, output)
    if found is None or (measured.views and (anew or not found.views)):
        publish(store, output, Contents({}, measured.model_dump()))
        return measured
    return found


def _stored(store: Store, output: Output) -> ClipTime | None:
    manifest = find(store, output)
    try:
        return ClipTime.model_validate(manifest.info) if manifest else None
    except ValidationError:
        return None
