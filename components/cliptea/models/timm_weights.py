"""Weights of timm's encoders, and the conversion of their names for the feature pyramids of students."""

from __future__ import annotations

import sys
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg, list_pretrained
from torch import Tensor, nn

from cliptea.errors import ConfigError
from cliptea.models.backbone_names import TIMM_DEFAULT
from cliptea.models.encoder_weights import from_hub, from_url
from cliptea.weights_source import WeightsSource

__all__ = ["published", "published_licence", "pyramid_state"]


def published(encoder: str, tag: str) -> dict[str, Tensor]:
    """The weights of an encoder with this tag, from the hub where timm publishes them.

    Raises:
        ConfigError: the tag does not exist, or the download fails.
    """
    config = _config(encoder, tag)
    return from_hub(config.hf_hub_id) if config.hf_hub_id else from_url(config.url)


def published_licence(encoder: str, tag: str) -> str:
    """The licence of an encoder's weights, as stated by timm.

    Raises:
        ConfigError: the tag does not exist.
    """
    return _config(encoder, tag).license or "not stated by timm"


def pyramid_state(
    state: dict[str, Tensor], features: nn.Module, encoder: str, options: dict[str, Any], source: WeightsSource
) -> dict[str, Tensor]:
    """Rename the weights of a classifier for its feature pyramid, which has no classifier and no last norm.

    timm's pyramids join the first parts of a name with "_" instead of "." (layers_0 for layers.0), or wrap the
    classifier as `model`.

    Args:
        state: in any layout that timm converts.
        encoder, options: arguments with which `features` was created.
        source: name of the weights in errors.

    Raises:
        ConfigError: the weights belong to another network.
    """
    with torch.device("meta"):
        classifier: Any = timm.create_model(encoder, **options)
    convert = getattr(sys.modules[type(classifier).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            state = convert(state, classifier)
        except (KeyError, AttributeError, RuntimeError) as error:  # timm raises these for unexpected names
            raise ConfigError(
                f"the weights {source} do not fit timm's {encoder}: {error}", "weights of that encoder"
            ) from error
    ours = {_flat(key.removeprefix("model.")): key for key in features.state_dict()}
    heads = classifier.pretrained_cfg.get("classifier") or ()
    dropped = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    beyond = {key for key in classifier.state_dict() if _flat(key) not in ours}
    return {
        ours.get(_flat(key), key): value
        for key, value in state.items()
        if key not in beyond and not key.startswith(dropped)
    }


def _flat(key: str) -> str:
    return key.replace(".", "_")


def _config(encoder: str, tag: str) -> Any:
    """timm's configuration of an encoder's weights."""
    try:
        config = get_pretrained_cfg(encoder if tag == TIMM_DEFAULT else f"{encoder}.{tag}")
    except RuntimeError:  # the tag does not exist
        config = None
    if config is None or not config.has_weights:
        tags = [name.partition(".")[2] for name in list_pretrained(f"{encoder}.*")]
        raise ConfigError(f"timm has no weights {tag!r} for {encoder}", f"one of {', '.join([*tags, 'a file'])}")
    return config
