"""The requests that the train step sends to the Kubernetes API, and their errors."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cliptea.cluster.job import KUEUE, RUN_LABEL, run_value
from cliptea.cluster.reasons import QUOTA, StepPod, step_pod
from cliptea.errors import ClipteaError, one_line
from cliptea.files import oddity
from cliptea.outage import unreached

__all__ = [
    "KUEUE_VERSION", "RIGHTS", "SERVER", "Cluster", "ClusterError", "NoTrainer", "QuotaFull", "Right", "Unreachable",
    "connect", "own_namespace",
]  # fmt: skip

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
KUEUE_VERSION = "v1beta2"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
SERVER = "the Kubernetes API"
DEFAULT_CONFIG = "~/.kube/config"
TIMEOUT = (5, 20)  # seconds to connect, and between two parts of an answer


class ClusterError(ClipteaError):
    """The cluster cannot do what the step needs."""


class Unreachable(ClusterError):
    """The Kubernetes API does not answer, or returns a server error. This is temporary."""

    temporary = True


class NoTrainer(ClusterError):
    """The cluster does not support TrainJobs."""


class QuotaFull(ClusterError):
    """A quota of the namespace has no room for another TrainJob. This is temporary."""


class Right(NamedTuple):
    """A permission that the service account of the train step needs in its namespace."""

    verb: str
    group: str
    resource: str


RIGHTS = (
    Right("get", GROUP, PLURAL),
    Right("create", GROUP, PLURAL),
    Right("delete", GROUP, PLURAL),
    Right("list", "", "pods"),
    Right("get", "", "pods/log"),
    Right("list", "", "events"),
)


def connect(namespace: str = "", timeout: tuple[int, int] = TIMEOUT) -> Cluster:
    """The cluster of this pod, or else the cluster from KUBECONFIG or ~/.kube/config.

    Args:
        namespace: defaults to the pod's own namespace, the one in the file, or kubeflow.
        timeout: seconds to connect, and between two parts of an answer.

    Raises:
        ClusterError: no cluster is configured, or its configuration is damaged.
    """
    import yaml
    from kubernetes import client, config

    # Do not log retries: if one fails, the error is reported anyway.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    chosen = client.Configuration()
    file = os.environ.get("KUBECONFIG") or None
    own, in_pod = "", "KUBERNETES_SERVICE_HOST" in os.environ and file is None
    for path in () if in_pod else map(os.path.expanduser, (file or DEFAULT_CONFIG).split(os.pathsep)):
        if os.path.exists(path) and (odd := oddity(path)):  # opening a named pipe would wait forever
            raise _misconfigured(path, f"it is {odd}")
    try:
        if in_pod:
            config.load_incluster_config(client_configuration=chosen)
            own = own_namespace()
        else:
            config.load_kube_config(config_file=file, client_configuration=chosen)
            _, active = config.list_kube_config_contexts(file)
            own = active["context"].get("namespace", "")
    except (config.ConfigException, OSError) as error:
        raise ClusterError(
            f"no Kubernetes cluster is configured ({one_line(error)})",
            "a pod with a service account, or a file ~/.kube/config",
            "set KUBECONFIG to the configuration file of the cluster",
        ) from None
    except (yaml.YAMLError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        why = f"{type(error).__name__}{'' if line is None else f' in line {line + 1}'}"
        raise _misconfigured(file or DEFAULT_CONFIG, why) from None
    setattr(chosen, "retries", 0)  # noqa: B010 (the client's types say None)
    return Cluster(client.ApiClient(chosen), namespace or own or "kubeflow", timeout)


def _misconfigured(file: str, why: str) -> ClusterError:
    return ClusterError(
        f"{file} is not the configuration file of a cluster ({why})",
        "a file that `kubectl config view` can read",
        "correct it, or set KUBECONFIG to another one",
    )


def own_namespace() -> str:
    """The namespace of this pod, or "" outside a cluster."""
    return NAMESPACE_FILE.read_text().strip() if NAMESPACE_FILE.is_file() else ""


class Cluster:
    """One namespace of a cluster. Objects are plain dictionaries, named as in manifests."""

    def __init__(self, api: Any, namespace: str, timeout: tuple[int, int] = TIMEOUT) -> None:
        from kubernetes import client

        self.api, self.namespace, self._timeout = api, namespace, timeout
        self._jobs, self._core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self._place = (GROUP, VERSION, namespace, PLURAL)

    def job(self, name: str) -> dict[str, Any] | None:
        """The TrainJob with this name, or None."""
        request = self._jobs.get_namespaced_custom_object
        return self._ask("get", PLURAL, request, *self._place, name, absent=_not_found)

    def jobs(self, job_id: str) -> list[dict[str, Any]]:
        """The TrainJobs of a pipeline job. The train step itself has no permission to list them."""
        selector = f"{RUN_LABEL}={run_value(job_id)}"
        request = self._jobs.list_namespaced_custom_object
        return self._ask("list", PLURAL, request, *self._place, label_selector=selector)["items"]

    def create(self, job: dict[str, Any]) -> bool:
        """Create a TrainJob. Returns False if its name exists. Raises QuotaFull if the namespace has no room."""
        request = self._jobs.create_namespaced_custom_object
        made = self._ask("create", PLURAL, request, *self._place, job, absent=lambda error: error.status == 409)
        return made is not None

    def delete(self, name: str) -> None:
        """Delete a TrainJob and its pods, if it exists."""
        request, options = self._jobs.delete_namespaced_custom_object, {"propagationPolicy": "Foreground"}
        self._ask("delete", PLURAL, request, *self._place, name, body=options, absent=_not_found)

    def workload(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """Kueue's object for a TrainJob, or {} if it has none. None if that is not known.

        It only makes messages clearer. So all errors are ignored, for example if this service account may not read it.
        """
        request = self._jobs.list_namespaced_custom_object
        place = (KUEUE, KUEUE_VERSION, self.namespace, "workloads")
        selector = f"{KUEUE}/job-uid={job['metadata']['uid']}"
        try:
            found = self._ask("list", "workloads", request, *place, label_selector=selector)["items"]
        except ClusterError:
            return None
        return found[-1] if found else {}

    def pods(self, job: str) -> list[dict[str, Any]]:
        """The pods of a TrainJob, with the newest one last."""
        return self._pods(label_selector=f"jobset.sigs.k8s.io/jobset-name={job}")

    def step_pods(self, job_id: str) -> list[StepPod]:
        """The pods of a pipeline job's steps and drivers, with the newest one last, and what each pod waits for."""
        return [step_pod(pod) for pod in self._pods(label_selector=f"pipeline/runid={job_id}")]

    def owners(self, pod: str) -> list[dict[str, Any]]:
        """The owners of a pod. The owner of a step's pod is the workflow of the pipeline run."""
        found = self._pods(field_selector=f"metadata.name={pod}")
        owners = [owner for item in found for owner in item["metadata"].get("ownerReferences", [])]
        # Without the field `controller`, because the workflow controller does not control the TrainJob.
        return [{key: owner[key] for key in ("apiVersion", "kind", "name", "uid")} for owner in owners]

    def warnings(self, job: str) -> list[dict[str, Any]]:
        """The warning events about a TrainJob and all objects that were created for it."""
        request = self._core.list_namespaced_event
        found = self._ask("list", "events", request, self.namespace, field_selector="type=Warning")
        about = [(event, event["involvedObject"].get("name", "")) for event in self._plain(found)]
        return [event for event, name in about if name == job or name.startswith(f"{job}-")]

    def log(self, pod: str, container: str, seconds: int) -> str:
        """The log of a container from the last `seconds`, with a timestamp in each line. "" before it has started."""

        def read(*place: Any, **options: Any) -> bytes:
            answer = self._core.read_namespaced_pod_log(*place, **options, _preload_content=False)
            return answer.data  # the connection may break here as well

        answer = self._ask(
            "get",
            "pods/log",
            read,
            pod,
            self.namespace,
            container=container,
            since_seconds=seconds,
            timestamps=True,
            absent=lambda error: error.status in (400, 404),  # still starting, or gone
        )
        return "" if answer is None else answer.decode(errors="replace")

    def _pods(self, **selector: Any) -> list[dict[str, Any]]:
        found = self._ask("list", "pods", self._core.list_namespaced_pod, self.namespace, **selector)
        return sorted(self._plain(found), key=lambda pod: pod["metadata"].get("creationTimestamp", ""))

    def _plain(self, listed: Any) -> list[dict[str, Any]]:
        return self.api.sanitize_for_serialization(listed)["items"]

    def _ask(
        self,
        verb: str,
        resource: str,
        request: Callable[..., Any],
        *place: Any,
        absent: Callable[[Any], bool] = lambda error: False,
        **options: Any,
    ) -> Any:
        """What a request returns, or None if `absent` says so of the API's refusal. Other errors are explained."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return request(*place, **options, _request_timeout=self._timeout)
        except HTTPError as error:
            why, todo = unreached(error, "correct the CA of the cluster in KUBECONFIG")
            kind = ClusterError if todo else Unreachable
            raise kind(f"{SERVER} cannot be reached ({why})", todo=todo) from None
        except ApiException as error:
            if absent(error):
                return None
            raise _refused(error, verb, resource, self.namespace) from None


def _not_found(error: Any) -> bool:
    return error.status == 404 and "page not found" not in (error.body or "")  # that is: no such kind of object


def _refused(error: Any, verb: str, resource: str, namespace: str) -> ClusterError:
    message = _message(error)
    if error.status == 401:
        return ClusterError(
            f"{SERVER} does not accept the login (401)",
            "credentials that are valid now",
            "log in to the cluster again, or check KUBECONFIG",
        )
    if f"cannot {verb} resource" in message:
        return ClusterError(
            f"this service account may not {verb} {resource} in namespace {namespace}",
            "the Role from cliptea's manifests, bound to it",
            "apply the manifests; `cliptea doctor` lists what is missing",
        )
    if error.status == 403 and QUOTA in message:
        return QuotaFull(f"namespace {namespace} has no room for a TrainJob: {message}")
    if error.status == 404:
        return NoTrainer(
            f"the cluster does not support {resource}",
            "Kubeflow Trainer 2",
            "install it, or compile the pipeline with the launcher torchrun",
        )
    text = f"{SERVER} answers {error.status} to {verb} {resource}: {message}"
    if error.status == 429 or error.status >= 500:
        return Unreachable(text)
    return ClusterError(text)


def _message(error: Any) -> str:
    try:
        return json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
