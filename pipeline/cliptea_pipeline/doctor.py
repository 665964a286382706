"""`cliptea doctor`: checks what is reachable and what is missing, and explains what to do about it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, Queue
from typing import Any

from rich.console import Console

from cliptea.exit_codes import ExitCode
from cliptea.messages import plain
from cliptea_pipeline import checks, kfp_checks
from cliptea_pipeline.checks import BROKEN, NOT_READY, OK, UNKNOWN, Finding
from cliptea_pipeline.cluster_checks import kubernetes
from cliptea_pipeline.placement import Placement
from cliptea_pipeline.server_address import NAMESPACE

__all__ = ["code", "doctor", "document", "examine"]

DEADLINE_SECONDS = 18.0
STYLES = {OK: "green", BROKEN: "red", NOT_READY: "red", UNKNOWN: "yellow"}
Check = Callable[[], Iterator[Finding]]


def doctor(placement: Placement, endpoint: str | None, namespace: str | None) -> list[Finding]:
    """Check everything that a run on a cluster needs, and print a line for each result.

    Args:
        placement: defines the secrets, runtime, GPUs and launcher that are needed.
        endpoint: of Kubeflow Pipelines; default: KFP_ENDPOINT.
        namespace: of the steps; default: KFP_NAMESPACE, else as `steps_namespace` says, else the one of the cluster's
            configuration.

    Returns:
        What was printed.
    """
    namespace = namespace or os.environ.get(NAMESPACE)
    looks = [
        lambda: checks.store(placement.store),
        checks.mlflow,
        lambda: kfp_checks.kfp(endpoint, namespace, placement),
        lambda: kfp_checks.sweep(endpoint),
        *kubernetes(namespace or kfp_checks.steps_namespace(endpoint), placement),
    ]
    console = Console(highlight=False)
    found: list[Finding] = []
    for finding in examine(looks, DEADLINE_SECONDS):
        style = STYLES[finding.state]
        console.print(f"[{style}]{finding.state:11}[/] [bold]{finding.what:10}[/] ", end="")
        console.print(plain(finding.text), markup=False, soft_wrap=True)
        found.append(finding)
    return found


def code(found: Sequence[Finding]) -> int:
    """The exit code: FAILED if anything that is configured or needed is missing or not ready."""
    return ExitCode.FAILED if any(finding.state in (BROKEN, NOT_READY) for finding in found) else ExitCode.DONE


def document(found: Sequence[Finding]) -> dict[str, Any]:
    """The findings as `--json` shows them."""
    findings = [{"check": one.what, "state": one.state, "text": plain(one.text)} for one in found]
    return {"ready": code(found) == ExitCode.DONE, "findings": findings}


def examine(looks: Sequence[Check], seconds: float) -> Iterator[Finding]:
    """The findings of all checks in their order. The checks run in parallel, and those that take too long are skipped.

    Args:
        looks: the checks.
        seconds: time limit for all of them together.
    """
    deadline = time.monotonic() + seconds
    queues: list[Queue[Finding | None]] = [_started(look) for look in looks]
    for queue in queues:
        while True:
            try:
                finding = queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                yield Finding("a check", UNKNOWN, f"no answer within {seconds:.0f} s; check for a firewall in between")
                break
            if finding is None:
                break
            yield finding


def _started(look: Check) -> Queue[Finding | None]:
    queue: Queue[Finding | None] = Queue()

    def work() -> None:
        try:
            for finding in look():
                queue.put(finding)
        except Exception as error:
            queue.put(Finding("a check", UNKNOWN, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))
        queue.put(None)

    threading.Thread(target=work, daemon=True).start()
    return queue
