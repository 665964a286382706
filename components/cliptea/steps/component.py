"""The decorator `@step` turns a function into a KFP component.

The source of the function is compiled into the pipeline, so its imports must be inside the function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kfp import dsl

from cliptea import __version__

__all__ = ["IMAGE", "step"]

IMAGE = f"cliptea:{__version__}"


def step(*, hand_on_placement: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that turns a function into a KFP component.

    Args:
        hand_on_placement: for a step whose pod only follows other pods. Resources and node placement are passed to the
            step in a `dsl.TaskConfig` and not applied to its own pod. Environment and volumes apply to both.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        if not hasattr(dsl, "component"):  # inside a task, kfp omits everything that is only needed to compile
            return function
        passed = _placement() if hand_on_placement else None
        return dsl.component(function, base_image=IMAGE, install_kfp_package=False, task_config_passthroughs=passed)

    return decorate


def _placement() -> list[dsl.TaskConfigPassthrough | dsl.TaskConfigField]:
    field = dsl.TaskConfigField
    return [
        field.RESOURCES,
        field.KUBERNETES_NODE_SELECTOR,
        field.KUBERNETES_TOLERATIONS,
        field.KUBERNETES_AFFINITY,
        dsl.TaskConfigPassthrough(field=field.ENV, apply_to_task=True),
        dsl.TaskConfigPassthrough(field=field.KUBERNETES_VOLUMES, apply_to_task=True),
    ]
