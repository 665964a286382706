"""Which server of Kubeflow Pipelines the commands use, and the token for it.

A pod uses the server of its own cluster unless another one is named. Its address is that of the API, without any pages.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from cliptea import env
from cliptea.cluster.kubernetes_api import own_namespace
from cliptea.errors import ConfigError
from cliptea.messages import holds_secret
from cliptea.parse import read_text, require_utf8

__all__ = [
    "ENDPOINT", "NAMESPACE", "PIPELINES", "TOKEN", "address", "inside", "named", "namespace_inside", "of_page", "pages",
    "token", "token_in_shell",
]  # fmt: skip

ENDPOINT, TOKEN, NAMESPACE = "KFP_ENDPOINT", "KFP_TOKEN", "KFP_NAMESPACE"
# Names of kfp's client and of its commands, and where Kubeflow's notebooks have a token.
THEIR_ENDPOINT, THEIR_PAGES = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT"
THEIR_TOKEN, TOKEN_PATH = "KFP_EXISTING_TOKEN", "KF_PIPELINES_SA_TOKEN_PATH"
TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"
PIPELINES = "kubeflow"  # namespace of Pipelines itself
INSIDE = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"  # the server, for pods in its cluster
SHORT = ("http://ml-pipeline.kubeflow.svc:8888", "http://ml-pipeline.kubeflow:8888")


def named(given: str | None) -> str:
    """The address that an option or a variable names, or ""."""
    return given or os.environ.get(ENDPOINT) or os.environ.get(THEIR_ENDPOINT) or ""


def address(given: str | None) -> str:
    """The address of the KFP API, without a path to a page of its user interface.

    A pod need not name it, unless KUBECONFIG leads to another cluster.

    Raises:
        ConfigError: no address is set, it lacks http:// or https://, is not UTF-8, or holds a password or a token.
    """
    default = INSIDE if env.IN_CLUSTER.get() and not os.environ.get("KUBECONFIG") else ""
    url = (named(given) or default).split("#")[0].rstrip("/")
    if not url:
        raise ConfigError(
            "no Kubeflow Pipelines endpoint is set",
            "its address, for example http://localhost:8080 after `kubectl port-forward svc/ml-pipeline-ui 8080:80`",
            f"add --endpoint, or set {ENDPOINT}",
        )
    require_utf8(url, "the address of Kubeflow Pipelines")
    if holds_secret(url):
        raise ConfigError(
            "the address of Kubeflow Pipelines holds a user, password or signature, and addresses are printed",
            "an address without credentials",
            f"set {TOKEN}, see docs/environment.md",
        )
    if "://" not in url:
        raise ConfigError(f"the endpoint {url!r} has no scheme", f"http://{url} or https://{url}")
    return url


def of_page(given: str | None, page: str | None) -> str | None:
    """The address of the server of a run, for `address`: the option, or else the server of the run's page, if known.

    Raises:
        ConfigError: the page is of another server than the one that a variable names. The server of the page must not
            get the other one's token.
    """
    own = named(None)
    if given or page is None or not own:
        return given or page
    url = address(None)
    if _server(page) not in (_server(url), _server(pages(url))):
        raise ConfigError(
            f"the run is on {page}, but {ENDPOINT} or {THEIR_ENDPOINT} names {url}",
            "a run of that server",
            f"add --endpoint {page} if you trust it with your token",
        )
    return own


def _server(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", url, None


def inside(url: str) -> bool:
    """Whether an address is that of the server in the cluster of this pod."""
    return url in (INSIDE, *SHORT)


def pages(url: str) -> str:
    """The address of the user interface of the server, or "" if only its API is known."""
    return (os.environ.get(THEIR_PAGES) or "").rstrip("/") if inside(url) else url


def token(url: str) -> str:
    """The bearer token for the KFP server at an address, or "".

    A notebook has a file with one, which is only for the server of its own cluster. Kubernetes renews it.

    Raises:
        ConfigError: the file that is named does not exist.
    """
    given = os.environ.get(TOKEN) or os.environ.get(THEIR_TOKEN)
    if given or not inside(url):
        return given or ""
    file = os.environ.get(TOKEN_PATH)
    try:
        found = read_text(Path(file or TOKEN_FILE), "the token of Kubeflow Pipelines")
        return found.decode().strip()
    except UnicodeDecodeError:
        raise ConfigError(
            f"{file or TOKEN_FILE} is not text in UTF-8", "a file with a token", f"correct it, or set {TOKEN}"
        ) from None
    except ConfigError as error:
        if not file:
            return ""
        raise ConfigError(
            f"{error.what}; {TOKEN_PATH} names it",
            "a file with a token",
            f"correct it, or set {TOKEN}",
        ) from None


def token_in_shell(url: str) -> str:
    """How a command in a shell gets the token, without showing it, or "" if there is none."""
    if variable := next((name for name in (TOKEN, THEIR_TOKEN) if os.environ.get(name)), None):
        return f"${variable}"
    return f"$(cat {os.environ.get(TOKEN_PATH) or TOKEN_FILE})" if token(url) else ""


def namespace_inside(url: str, several: bool) -> str:
    """The namespace of the steps for the server in the cluster of this pod. For other servers, users name theirs: "".

    Args:
        several: whether the server is in multi-user mode. Otherwise, all steps run in its own namespace.
    """
    if not inside(url):
        return ""
    return own_namespace() if several else PIPELINES
