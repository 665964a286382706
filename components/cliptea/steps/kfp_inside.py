"""The parts of kfp that it does not promise to keep. pyproject.toml has an upper bound for its version because of them.

It imports nothing, because it chooses how kfp is imported later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["AS_TASK", "EXECUTOR", "api_client", "start_tasks_with"]

EXECUTOR = "kfp.dsl.executor_main"  # the module that runs a step's function, as its command line names it
AS_TASK = {"_KFP_RUNTIME": "true"}  # with it, kfp is imported as in a task: without compiler and client


def start_tasks_with(start: Callable[[list[str], dict[str, str] | None], int]) -> None:
    """Let kfp.local start its tasks with a function.

    Args:
        start: gets the full command of a task and its environment variables. It prints the task's output, waits for its
            end, and returns its exit code.
    """
    from kfp.local import subprocess_task_handler

    subprocess_task_handler.run_local_subprocess = start


def api_client(client: Any) -> Any:
    """The `kfp_server_api.ApiClient` of a `kfp.Client`, with its address and its credentials."""
    return client._run_api.api_client
