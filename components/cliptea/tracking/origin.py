"""Where a run comes from: version, commit, image and the address of the pipeline run, as tags."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cliptea import __version__, env

__all__ = ["origin"]

# Set in the container image or by the compiled pipeline.
VARIABLES = {"git.commit": env.COMMIT, "image": env.IMAGE}


def origin(job_id: str) -> dict[str, str]:
    """Tags of a run; what is not known is left out.

    Args:
        job_id: of the pipeline run, for its address below CLIPTEA_KFP_URL (the address of KFP's interface).
    """
    tags = {"cliptea.version": __version__}
    tags |= {tag: value for tag, variable in VARIABLES.items() if (value := variable.get())}
    if env.in_local_run():  # whatever image the pipeline was compiled for
        tags.pop("image", None)
    if "git.commit" not in tags and (commit := _commit()):
        tags["git.commit"] = commit
    if address := env.KFP_URL.get().rstrip("/"):
        tags["kfp.pipeline_run_url"] = f"{address}/#/runs/details/{job_id}"
    return tags


def _commit() -> str:
    """The commit of the sources, where they are a git checkout; marked when files of it have changed."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():
        return ""
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            check=True,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return described.stdout.strip()
