"""Where a run comes from: the version of cliptea, the commit, the image, and its page in Kubeflow Pipelines."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cliptea import __version__, env
from cliptea.messages import redacted

__all__ = ["origin"]


def origin(job_id: str) -> dict[str, str]:
    """Tags for the origin of a run: version, commit, image and address in KFP. Unknown values are left out."""
    address = redacted(env.KFP_URL.get().rstrip("/"))
    tags = {
        "cliptea.version": __version__,
        "git.commit": env.COMMIT.get() or _commit(),
        "image": "" if env.in_local_run() else env.IMAGE.get(),  # a local run does not use the pipeline's image
        "kfp.pipeline_run_url": address and f"{address}/#/runs/details/{job_id}",
    }
    return {tag: value for tag, value in tags.items() if value}


def _commit() -> str:
    """The commit of the sources if they are a git checkout, with a mark if files were changed. Otherwise ""."""
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
