"""The connection to the API of Kubeflow Pipelines, and the requests to it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cliptea import __version__
from cliptea.cluster.kubernetes_api import Cluster, connect
from cliptea.errors import ClipteaError, ConfigError
from cliptea.messages import of_connection
from cliptea.outage import unreached
from cliptea.steps.kfp_inside import api_client, limit_requests, new_client
from cliptea_pipeline.server_address import ENDPOINT, NAMESPACE, TOKEN, address, namespace_inside, token

__all__ = ["PAGE", "PIPELINE", "Away", "Endpoint", "EndpointError", "Unknown", "Version", "all_pages", "web_page"]

PIPELINE = "cliptea"
PAGE = 100
TIMEOUT = (3, 10)  # seconds to connect to Pipelines or the Kubernetes API, and for an answer
BUSY_TIMEOUT = (3, 60)  # the same for Pipelines once it has answered: it may be busy, or have to do something large


class EndpointError(ClipteaError):
    """Kubeflow Pipelines cannot be reached, or denies a request."""


class Away(EndpointError):
    """Kubeflow Pipelines gives no valid answer, but may do so later. `reason` says why in a few words."""

    def __init__(self, what: str, expected: str = "", todo: str = "", *, reason: str) -> None:
        super().__init__(what, expected, todo)
        self.reason = reason


class Unknown(EndpointError):
    """Kubeflow Pipelines has no object with that id."""


class Version(NamedTuple):
    """A version of the pipeline on the server: the ids of both, its name, and the name of the newest version."""

    pipeline: str
    id: str
    name: str
    latest: str


class _Token:
    """Credentials for kfp: the token, read anew for each request, because Kubernetes renews that of a notebook."""

    def __init__(self, url: str) -> None:
        self._url = url

    def refresh_api_key_hook(self, config: Any) -> None:
        config.api_key["authorization"] = token(self._url)


class Endpoint:
    """A KFP server, and one of its namespaces if it is in multi-user mode.

    Environment: the variables of `address` and `token`; KFP_NAMESPACE, the default namespace; SSL_CERT_FILE, a CA file
    for https.

    Raises:
        ConfigError: no server is set, or it is in multi-user mode and no namespace is set.
        EndpointError: it cannot be reached, denies the request, or is not a KFP server.
    """

    def __init__(self, given: str | None = None, namespace: str | None = None) -> None:
        self.url = address(given)
        self.namespace = namespace or os.environ.get(NAMESPACE) or None
        self.steps_namespace = self.namespace or ""  # Kubernetes namespace of the steps; "": the configured one
        with self.asked():
            self.client: Any = self._connect()  # the generated client's types say that everything may be None

    def _connect(self) -> Any:
        health = self._health()
        several = bool(health.multi_user)
        self.steps_namespace = self.namespace or namespace_inside(self.url, several)
        self.namespace = (self.steps_namespace or None) if several else None  # single-user servers reject a namespace
        if several and self.namespace is None:
            raise ConfigError(
                f"Kubeflow Pipelines at {self.url} is in multi-user mode",
                "the namespace of a user",
                f"add --namespace, or set {NAMESPACE}",
            )
        credentials: Any = _Token(self.url) if token(self.url) else None  # kfp only calls the hook
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return new_client(
                health,
                BUSY_TIMEOUT,
                host=self.url,
                namespace=self.namespace or "kubeflow",
                credentials=credentials,
                ssl_ca_cert=os.environ.get("SSL_CERT_FILE") or None,
            )

    def _health(self) -> Any:
        """What the server says about itself."""
        import kfp_server_api

        # kfp.Client tries this five times within 25 s, and prints a traceback each time, before it gives up.
        quick: Any = kfp_server_api.Configuration(host=self.url)
        quick.ssl_ca_cert = os.environ.get("SSL_CERT_FILE") or None
        if given := token(self.url):
            quick.api_key, quick.api_key_prefix = {"authorization": given}, {"authorization": "Bearer"}
        client = kfp_server_api.ApiClient(quick)
        limit_requests(client, TIMEOUT)
        api: Any = kfp_server_api.HealthzServiceApi(client)
        found, _, headers = api.healthz_service_get_healthz_with_http_info()
        if "json" not in headers.get("Content-Type", ""):
            raise web_page(self.url)
        return found

    @contextlib.contextmanager
    def asked(self, unsure: str = "") -> Iterator[None]:
        """Make requests inside this block silent, and their errors one line.

        Args:
            unsure: the advice if the server has the request but has not answered it, because it may have followed it.
        """
        from kfp_server_api import ApiException
        from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError, SSLError

        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the client prints links, as HTML if possible
                yield
        except HTTPError as error:
            cause, todo = unreached(error, "set SSL_CERT_FILE to a file with the CA of its certificate")
            away = f"Kubeflow Pipelines cannot be reached at {self.url} ({cause})"
            if todo:
                raise EndpointError(away, todo=todo) from None
            silent = ProtocolError | ReadTimeoutError | SSLError
            if unsure and isinstance(getattr(error, "reason", None) or error, silent):
                what = f"Kubeflow Pipelines at {self.url} has not answered a request ({cause})"
                raise Away(what, todo=unsure, reason=cause) from None
            todo = f"check --endpoint or {ENDPOINT}, and a port-forward if there is one"
            raise Away(away, "the address of its user interface or API", todo, reason=cause) from None
        except ApiException as error:
            raise _refused(self.url, error, unsure) from None

    def upload(self, file: Path, as_latest: bool = False) -> Version:
        """Upload the compiled pipeline as a version of the pipeline `cliptea`, unless it exists already.

        Args:
            as_latest: upload an older version again, so that it becomes the newest one, which schedules use.

        Raises:
            ConfigError: the file cannot be read.
        """
        try:
            name = f"{__version__}-{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
        except OSError as error:
            raise ConfigError(
                f"cannot read the pipeline {file}: {error.strerror}", "a file that `cliptea compile -o` wrote"
            ) from None
        pipeline = self.pipeline()
        with self.asked():
            if pipeline is None:
                pipeline = self._create_pipeline()
            found = all_pages(
                lambda token: self.client.list_pipeline_versions(pipeline, page_token=token, page_size=PAGE),
                "pipeline_versions",
            )
            versions = sorted(found, key=lambda version: version.created_at)
            same = [v for v in versions if v.display_name == name or v.display_name.startswith(f"{name}-")]
            if same and (same[-1] is versions[-1] or not as_latest):
                return Version(pipeline, same[-1].pipeline_version_id, same[-1].display_name, versions[-1].display_name)
            taken = {version.display_name for version in same}
            names = itertools.chain([name], (f"{name}-{again}" for again in itertools.count(2)))
            free = next(candidate for candidate in names if candidate not in taken)
            made = self.client.upload_pipeline_version(str(file), free, pipeline_id=pipeline)
        return Version(pipeline, made.pipeline_version_id, free, free)

    def _create_pipeline(self) -> str:
        import kfp_server_api

        # Client.upload_pipeline would create a first version with a meaningless name.
        body = kfp_server_api.V2beta1Pipeline(name=PIPELINE, display_name=PIPELINE, namespace=self.namespace)
        api: Any = kfp_server_api.PipelineServiceApi(api_client(self.client))
        return api.pipeline_service_create_pipeline(body).pipeline_id

    def pipeline(self) -> str | None:
        """The id of the pipeline `cliptea`, if it exists."""
        # Client.get_pipeline_id ignores namespaces.
        wanted = {"operation": "EQUALS", "key": "display_name", "stringValue": PIPELINE}
        with self.asked():
            found = self.client.list_pipelines(filter=json.dumps({"predicates": [wanted]}), namespace=self.namespace)
        return found.pipelines[0].pipeline_id if found.pipelines else None

    def cluster(self) -> Cluster:
        """The cluster that the steps run on, through the Kubernetes API."""
        return connect(self.steps_namespace, TIMEOUT)

    def experiment(self, name: str) -> str:
        """The id of the experiment with that name, which is created if it does not exist."""
        with self.asked():
            return self.client.create_experiment(name, namespace=self.namespace).experiment_id


def web_page(url: str) -> EndpointError:
    """The error for an answer that is not of the API."""
    return EndpointError(
        f"{url} returns a web page, perhaps a login, and not the API of Kubeflow Pipelines",
        "the address of Pipelines' user interface or API",
        f"check --endpoint; behind a login, set {TOKEN} or use a port-forward",
    )


def all_pages(ask: Callable[[str], Any], items: str) -> Iterator[Any]:
    """All items of a list that the server returns in pages."""
    token = ""
    while True:
        page = ask(token)
        yield from getattr(page, items) or []
        token = page.next_page_token or ""
        if not token:
            return


def _refused(url: str, error: Any, unsure: str) -> EndpointError:
    text = _message(error)
    if error.status == 400 and (known := of_connection(error)):  # such as http for https
        return EndpointError(f"Kubeflow Pipelines cannot be used at {url} ({known[0]})", todo=known[1])
    if error.status in (401, 403):
        return EndpointError(
            f"Kubeflow Pipelines at {url} denies access ({error.status}{f': {text}' if text else ''})",
            "a token of a user with permission to run pipelines in the namespace",
            f"set {TOKEN} and --namespace",
        )
    if error.status == 404 and not text:
        return EndpointError(f"{url} does not serve version 2 of the Kubeflow Pipelines API", todo="check --endpoint")
    answer = f"{error.status}: {text or error.reason}"
    what = f"Kubeflow Pipelines at {url} answers {answer}"
    if error.status == 429 or error.status >= 500:
        # Gateways such as Istio's also answer 503 when the server has the request and ends before its answer.
        return Away(what, todo=unsure if error.status >= 500 else "", reason=answer)
    return Unknown(what) if error.status == 404 else EndpointError(what)


def _message(error: Any) -> str:
    """The message of the server, if it is a Pipelines server."""
    try:
        return " ".join(json.loads(error.body)["message"].split())[:300]
    except (TypeError, ValueError, KeyError, AttributeError):
        return ""
