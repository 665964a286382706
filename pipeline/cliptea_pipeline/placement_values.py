"""Types of values in a placement. They reject values that Kubernetes would only reject when it creates a pod."""

from __future__ import annotations

import re
from typing import Annotated, Any

from kubernetes.utils.quantity import parse_quantity
from pydantic import AfterValidator, BeforeValidator, Field

from cliptea.messages import holds_secret, names_secret

__all__ = [
    "Annotations", "Count", "Cpu", "Key", "LabelValue", "Labels", "Memory", "Name", "Open", "Positive", "Public",
    "Resource", "Selected", "Store", "Variable",
]  # fmt: skip

TOKEN = re.compile(r"(^|_)tokens?($|_)", re.IGNORECASE)  # not TOKENIZERS_PARALLELISM
LABEL = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
DOMAIN = r"(?=[^/]{1,253}/)[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*"
# Labels and annotations by which cliptea, Kubeflow and Kubernetes find pods and TrainJobs.
RESERVED = re.compile(
    r"(cliptea|pipeline|pipelines\.kubeflow\.org|trainer\.kubeflow\.org|workflows\.argoproj\.io|jobset\.sigs\.k8s\.io|"
    r"batch\.kubernetes\.io)/|app\.kubernetes\.io/(name|component|part-of)$"
)
MOST_ANNOTATIONS = 256 << 10  # bytes of all of them


def _quantity(pattern: str, expected: str) -> BeforeValidator:
    """A positive Kubernetes quantity, in a notation that kfp accepts as well."""

    def check(value: Any) -> str:
        text = "" if isinstance(value, bool) else str(value)
        if not re.fullmatch(pattern, text) or parse_quantity(text) <= 0:
            raise ValueError(f"{value!r} is refused; expected {expected}")
        return text

    return BeforeValidator(check)


def _without_password(value: str) -> str:
    if holds_secret(value):  # the error must not repeat it
        raise ValueError(
            "the value holds a password, and the pipeline is public; use a Kubernetes secret, listed under secrets"
        )
    return value


def _text(pattern: str, expected: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, _without_password(value)):
            raise ValueError(f"{value!r} is refused; expected {expected}")
        return value

    return AfterValidator(check)


def _no_secret(name: str) -> str:
    if names_secret(name) or TOKEN.search(name):
        raise ValueError(f"{name} looks like a secret, and the pipeline is public; use secrets")
    return name


def _not_trainers(name: str) -> str:
    if name.startswith("PET_"):
        raise ValueError(f"{name}: names that begin with PET_ belong to Kubeflow Trainer; choose another one")
    return name


def _not_reserved(key: str) -> str:
    if RESERVED.match(key):
        raise ValueError(f"{key} is set by cliptea, Kubeflow or Kubernetes; choose another key")
    return key


def _small(annotations: dict[str, str]) -> dict[str, str]:
    if sum(len(f"{key}{value}".encode()) for key, value in annotations.items()) > MOST_ANNOTATIONS:
        raise ValueError("the annotations have more than 256 KiB, which Kubernetes refuses; shorten them")
    return annotations


MOST = (1 << 31) - 1  # the largest id of a user
Positive = Annotated[int, Field(gt=0, le=MOST, strict=True)]
Count = Annotated[int, Field(ge=0, le=MOST, strict=True)]
Cpu = Annotated[str, _quantity(r"[0-9]+(\.[0-9]+)?|[0-9]+m", "processors above 0, such as 500m or 2")]
Memory = Annotated[str, _quantity(r"[0-9]+([EPTGM]i?|Ki)?", "bytes above 0, such as 512Mi or 16Gi")]
Name = Annotated[
    str, _text(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", "the name of an object: a-z, 0-9, - and . between them")
]
Variable = Annotated[
    str, _text(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable: letters, digits and _")
]
Public = Annotated[Variable, AfterValidator(_no_secret), AfterValidator(_not_trainers)]
Open = Annotated[str, AfterValidator(_without_password)]
Store = Annotated[
    str,
    _text(
        r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?|file:///.+",
        "s3://bucket/folder with a bucket of a-z, 0-9, - and .; file:///folder needs pods to which your cluster adds a "
        "volume",
    ),
]
Selected = Annotated[  # the key of a label or a taint of nodes
    str,
    _text(
        rf"(?:{DOMAIN}/)?{LABEL}",
        "NAME or DOMAIN/NAME: a name of at most 63 letters, digits, -, _ and . that begins and ends with a letter or "
        "digit, and a domain in lower case",
    ),
]
Key = Annotated[Selected, AfterValidator(_not_reserved)]
LabelValue = Annotated[
    str, _text(rf"(?:{LABEL})?", "at most 63 letters, digits, -, _ and . that begin and end with a letter or digit")
]
Labels = dict[Key, LabelValue]
Resource = Annotated[str, _text(rf"{DOMAIN}/{LABEL}", "DOMAIN/NAME, such as nvidia.com/gpu")]
Annotations = Annotated[dict[Key, Open], AfterValidator(_small)]
