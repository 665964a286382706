"""`@step` makes a KFP component of a function, whose source is compiled into the pipeline: its imports stand inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kfp import dsl

from cliptea import __version__

__all__ = ["IMAGE", "step"]

IMAGE = f"cliptea:{__version__}"


def step(*, hand_on_placement: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that makes a KFP component.

    Args:
        hand_on_placement: the step's own pod only follows another: it is told its resources and nodes in a
            `dsl.TaskConfig` instead of getting them. Environment and volumes are needed by both.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        if not hasattr(dsl, "component"):  # in a task: kfp leaves out what is needed to compile only
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
