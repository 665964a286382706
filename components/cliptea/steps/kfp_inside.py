"""The parts of kfp that it does not promise to keep. pyproject.toml has an upper bound for its version because of them.

It does not import kfp itself, because it chooses how kfp is imported later.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["AS_TASK", "EXECUTOR", "api_client", "import_local", "limit_requests", "new_client", "start_tasks_with"]

EXECUTOR = "kfp.dsl.executor_main"  # the module that runs a step's function, as its command line names it
AS_TASK = {"_KFP_RUNTIME": "true"}  # with it, kfp is imported as in a task: without compiler and client


def import_local() -> tuple[ModuleType, ModuleType]:
    """`kfp.components` and `kfp.local`, without kfp's client, which imports Kubernetes' and takes most of the time."""
    os.environ.update(AS_TASK)
    import kfp  # noqa: F401  # imports nothing else, because of the variable

    for name in AS_TASK:
        del os.environ[name]
    from kfp import components, local

    return components, local


def start_tasks_with(start: Callable[[list[str], dict[str, str] | None], int]) -> None:
    """Let kfp.local start its tasks with a function.

    Args:
        start: gets the full command of a task and its environment variables. It prints the task's output, waits for its
            end, and returns its exit code.
    """
    from kfp.local import subprocess_task_handler

    subprocess_task_handler.run_local_subprocess = start


def new_client(health: Any, timeout: tuple[float, float], **options: Any) -> Any:
    """A `kfp.Client` whose requests are limited, see `limit_requests`.

    Args:
        health: what the server has said about itself. kfp would ask again, without a limit.
        options: as for `kfp.Client`.
    """
    import kfp

    class Client(kfp.Client):
        def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
            return health

    client = Client(**options)
    limit_requests(api_client(client), timeout)
    return client


def api_client(client: Any) -> Any:
    """The `kfp_server_api.ApiClient` of a `kfp.Client`, with its address and its credentials."""
    return client._run_api.api_client


def limit_requests(api: Any, timeout: tuple[float, float]) -> None:
    """Let the requests of an `ApiClient` end when the server does not answer. kfp would wait forever.

    Args:
        timeout: seconds to connect, and between two parts of an answer, of requests that set no `_request_timeout`.
            A request that fails is not repeated, so that the limits do not add up.
    """
    from urllib3 import Retry, Timeout

    pool = api.rest_client.pool_manager
    usual = Timeout(connect=timeout[0], read=timeout[1])
    once = Retry(3, connect=0, read=0, other=0, respect_retry_after_header=False)  # three redirects
    ask = pool.request

    def request(*place: Any, timeout: Any = None, **options: Any) -> Any:
        return ask(*place, timeout=timeout or usual, retries=once, **options)

    pool.request = request
