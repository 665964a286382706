"""All CLIPTEA_* variables, and those of others that cliptea reads. `docs/environment.md` is generated from this module.

To add a variable, define a constant here and put it into one of the `SECTIONS`, which are grouped by who sets it. Then
run `make environment` to update the page. Other modules use the constant, as in `env.STORE.get()`, and not its name.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from cliptea.errors import ConfigError
from cliptea.messages import SECRETS

__all__ = ["SECTIONS", "Section", "Variable", "in_local_run", "page"]

Number = TypeVar("Number", int, float)
MOST = 10**9  # far beyond useful values; Python cannot wait for much longer times


@dataclass(frozen=True)
class Variable:
    """One environment variable. `get`, `number` and `count` treat an empty value as not set; `is_set` does not."""

    name: str
    meaning: str  # with units, for the page
    default: str = ""  # for the page; "" for variables that users do not set
    expected: str = ""  # description of valid values, for errors

    def get(self) -> str:
        """The value, or "" if it is not set."""
        return os.environ.get(self.name, "")

    def is_set(self) -> bool:
        """Whether it is set, even if the value is empty."""
        return self.name in os.environ

    def set(self, value: str) -> None:
        """Set the value for this process and for processes that it starts from now on."""
        os.environ[self.name] = value

    def number(self) -> float | None:
        """The value as a number, or None if it is not set.

        Raises:
            ConfigError: the value is not a number from 0 to `MOST`.
        """
        return self._at_least(0, float)

    def count(self) -> int | None:
        """The value as a whole number, or None if it is not set.

        Raises:
            ConfigError: the value is not a whole number from 1 to `MOST`.
        """
        return self._at_least(1, int)

    def _at_least(self, least: int, kind: type[Number]) -> Number | None:
        given = self.get()
        if not given:
            return None
        with suppress(ValueError):
            if "_" not in given and least <= (number := kind(given)) <= MOST:  # Python takes 1_000
                return number
        raise ConfigError(f"{self.name} is {given!r}", f"{self.expected}; at most {MOST}")


class Section(NamedTuple):
    """A section of the page with its title, an introduction or "", and its variables."""

    title: str
    variables: tuple[Variable, ...]
    text: str = ""


STORE = Variable(
    "CLIPTEA_STORE",
    "where a run keeps its outputs: `s3://bucket/folder` or `file:///folder`",
    "the work directory's `store/`",
)
S3_ENDPOINT = Variable("CLIPTEA_S3_ENDPOINT", "the S3 server, `http://HOST:PORT` or `https://HOST`", "AWS")
S3_ENDPOINTS = (  # the first one that is set counts
    S3_ENDPOINT,
    Variable("AWS_ENDPOINT_URL_S3", "the same for AWS's tools, if `CLIPTEA_S3_ENDPOINT` is not set", "none"),
    Variable("AWS_ENDPOINT_URL", "the same, if neither of them is set", "none"),
)
CACHE = Variable(
    "CLIPTEA_CACHE", "the folder for downloaded objects and unfinished work", "`cliptea` in the user's cache folder"
)
CACHE_GIB = Variable(
    "CLIPTEA_CACHE_GIB",
    "the maximum size of cached shards in GiB; the least recently used shards are deleted first; 0 disables the cache",
    "16",
    "a number of GiB, 0 for no cache",
)
PATIENCE = Variable(
    "CLIPTEA_PATIENCE",
    "how many seconds to wait for S3, MLflow or an API that is not available; 0 means a single attempt; for MLflow at "
    "most 10 if `MLFLOW_TRACKING_URI` is a database and not a server",
    "600 in a step, 10 in a command",
    "a number of seconds, such as 600, or 0 for one try",
)
STALL_MINUTES = Variable(
    "CLIPTEA_STALL_MINUTES",
    "after how many minutes a step ends with exit code 77 if it reports nothing, computes nothing, and reads and "
    "writes nothing; at least five minutes more than `CLIPTEA_PATIENCE`; after eight times as long it ends even if it "
    "computes; 0 means never",
    "30",
    "a number of minutes, such as 30, or 0 for never",
)
THREADS = Variable(
    "CLIPTEA_THREADS",
    "the number of torch threads",
    "the cores available to the process",
    "a whole number of threads, at least 1",
)
OMP_NUM_THREADS = Variable(
    "OMP_NUM_THREADS",
    "the number of threads of numerical libraries; on one machine, the smaller of the two values applies to both",
    "none",
)
WEBHOOK = Variable(
    "CLIPTEA_WEBHOOK",
    "an address that is notified when a run ends, by a POST of JSON: `text`, `job_id`, `state` (SUCCEEDED, FAILED, "
    "CANCELED or SKIPPED), `error`, `mlflow_run_id`; not when Ctrl-C stops a run on one machine; it is treated as a "
    "secret",
    "none",
)
KFP_URL = Variable("CLIPTEA_KFP_URL", "the address of the user interface of Pipelines, for a link from MLflow", "none")

LOG_FORMAT = Variable(
    "CLIPTEA_LOG_FORMAT",
    "the format of the log of a run, and of the errors and warnings of other commands: `text`, or `json` for one JSON "
    "object in each line",
    "`text`",
    "text or json",
)

RETRIES = Variable(
    "CLIPTEA_RETRIES",
    "how a step on a cluster is retried after temporary errors, as JSON; from the placement's `retries`",
    expected='JSON such as {"count": 2, "wait_seconds": 30}',
)
GRACE = Variable(
    "CLIPTEA_GRACE_SECONDS",
    "how many seconds a training pod has to save a checkpoint before it is killed; from the placement's "
    "`train_job.grace_seconds`, and 30 in other pods",
    expected="a whole number of seconds, at least 1",
)
STUDENTS = Variable(
    "CLIPTEA_STUDENTS",
    "the maximum number of students in one run on a cluster; the placement's `students`, less half of its "
    "`token_parts`",
    expected="a whole number of students, at least 1",
)
GPUS = Variable(
    "CLIPTEA_GPUS",
    "how many GPUs a step, or each pod of a TrainJob, is given; it must see at least one of them; from the "
    "placement's `gpus` of the step",
    expected="a whole number of GPUs, at least 1",
)
IMAGE = Variable("CLIPTEA_IMAGE", "the container image of a run, for a tag in MLflow")
TRAINER_URL = Variable(
    "KUBEFLOW_TRAINER_SERVER_URL", "by Kubeflow Trainer: the address that takes the progress of a TrainJob"
)
TRAINER_CA = Variable("KUBEFLOW_TRAINER_SERVER_CA_CERT", "by Kubeflow Trainer: the file of that server's CA")
TRAINER_TOKEN = Variable("KUBEFLOW_TRAINER_SERVER_TOKEN", "by Kubeflow Trainer: the file with the pod's token for it")
COMMIT = Variable("CLIPTEA_COMMIT", "the commit of the sources in the image, for a tag in MLflow")

IN_CLUSTER = Variable("KUBERNETES_SERVICE_HOST", "by Kubernetes: set in every pod, where no `KUBECONFIG` is needed")

EVENTS = Variable(
    "CLIPTEA_EVENTS", "the file to which the steps of a run on one machine append events, as lines of JSON"
)
ALIVE = Variable("CLIPTEA_ALIVE", "a named pipe that `cliptea run` keeps open for writing while it is running")
TASKS_LOCK = Variable("CLIPTEA_TASKS_LOCK", "a file on which every local task holds a shared lock while it is running")
STEP = Variable("CLIPTEA_STEP", "name, label and run of the current step as JSON, for its child processes")
FAILURE = Variable("CLIPTEA_FAILURE", "the file in which the first failed training process stores its error")
PULSE = Variable("CLIPTEA_PULSE", "the file whose time shows when a training process has reported progress")

OBJECT_STORE = (
    STORE,
    *S3_ENDPOINTS,
    Variable("AWS_ACCESS_KEY_ID", "credentials: the key's name", "none"),
    Variable("AWS_SECRET_ACCESS_KEY", "credentials: the key itself", "none"),
    Variable("AWS_SESSION_TOKEN", "credentials: the token of temporary credentials", "none"),
    Variable(
        "AWS_SHARED_CREDENTIALS_FILE",
        "a file with credentials; without one, a role is tried: web identity, EKS, ECS or EC2",
        "`~/.aws/credentials`",
    ),
    Variable("AWS_PROFILE", "the section of that file", "`default`"),
    Variable(
        "AWS_REGION",
        "region of the bucket; leave it unset if the buckets are in several regions",
        "the value from the server",
    ),
    Variable("AWS_DEFAULT_REGION", "the same, if `AWS_REGION` is not set", "none"),
    Variable("AWS_WEB_IDENTITY_TOKEN_FILE", "a file with a token for the role below; EKS sets both", "none"),
    Variable("AWS_ROLE_ARN", "the role", "none"),
    CACHE,
    CACHE_GIB,
    Variable("XDG_CACHE_HOME", "the user's cache folder", "`~/.cache`"),
    Variable("SSL_CERT_FILE", "a file of CA certificates for https", "certifi's"),
    Variable("HTTPS_PROXY", "the proxy for an S3 server with https: `http://HOST:PORT`", "none"),
    Variable("HTTP_PROXY", "the proxy for an S3 server with http", "none"),
    Variable(
        "NO_PROXY",
        "what is reached without a proxy, separated by commas: hosts, domains, IPv4 ranges such as `10.0.0.0/8`; for "
        "S3, this machine and names without a dot are always reached directly",
        "none",
    ),
)
MLFLOW = (
    Variable(
        "MLFLOW_TRACKING_URI",
        "MLflow: a server (`http://HOST:PORT`) or a database (`sqlite:////folder/mlflow.db`, `postgresql://...`)",
        "the work directory's database",
    ),
    Variable("MLFLOW_TRACKING_TOKEN", "credentials: a bearer token, or the next two", "none"),
    Variable("MLFLOW_TRACKING_USERNAME", "credentials: the user", "none"),
    Variable("MLFLOW_TRACKING_PASSWORD", "credentials: the password; a password in the address is rejected", "none"),
    Variable(
        "MLFLOW_EXPERIMENT_NAME",
        "the experiment of all runs; ignored for the database in a work directory, and under the MLflow plug-in",
        "`cliptea`",
    ),
    Variable(
        "REQUESTS_CA_BUNDLE",
        "a file of CA certificates for https to MLflow; `CURL_CA_BUNDLE` has the same meaning",
        "`SSL_CERT_FILE`, if neither this, `CURL_CA_BUNDLE` nor `MLFLOW_TRACKING_SERVER_CERT_PATH` is set",
    ),
    Variable(
        "MLFLOW_TRACKING_SERVER_CERT_PATH", "a file of CA certificates for MLflow; it is used before all others", "none"
    ),
    Variable("MLFLOW_TRACKING_INSECURE_TLS", "`true` does not check MLflow's certificate, for tests only", "none"),
    Variable("MLFLOW_REGISTRY_URI", "must be unset or the tracking server: models are kept there", "unset"),
    Variable("PGPASSWORD", "credentials: the password of a PostgreSQL database in `MLFLOW_TRACKING_URI`", "none"),
    Variable("PGCONNECT_TIMEOUT", "how many seconds to wait until a PostgreSQL database answers", "3"),
)
HUB = (
    Variable("HF_ENDPOINT", "the address of the hub", "`https://huggingface.co`"),
    Variable("HF_TOKEN", "the token, in place of the one that `hf auth login` has stored", "none"),
    Variable("HUGGING_FACE_HUB_TOKEN", "the same under its older name, if `HF_TOKEN` is not set", "none"),
    Variable("HF_HOME", "the folder for that token and for downloads", "`~/.cache/huggingface`"),
    Variable("HF_HUB_OFFLINE", "1 forbids using the hub; files that were downloaded before are still used", "none"),
)
CLUSTER = (
    Variable("KFP_ENDPOINT", "the address of Kubeflow Pipelines", "in a pod without `KUBECONFIG`: that of its cluster"),
    Variable("KF_PIPELINES_ENDPOINT", "the same under the name of kfp's client, if `KFP_ENDPOINT` is not set", "none"),
    Variable(
        "KF_PIPELINES_UI_ENDPOINT",
        "in a notebook: the address of the user interface of Pipelines, for the address of a run",
        "none",
    ),
    Variable("KFP_TOKEN", "a bearer token for Kubeflow Pipelines", "none"),
    Variable("KFP_EXISTING_TOKEN", "the same under the name of kfp's commands, if `KFP_TOKEN` is not set", "none"),
    Variable(
        "KF_PIPELINES_SA_TOKEN_PATH",
        "in a notebook: the file with a token for Pipelines in its cluster",
        "`/var/run/secrets/kubeflow/pipelines/token`",
    ),
    Variable("KFP_NAMESPACE", "your namespace on a multi-user server", "in a pod of its cluster: its own"),
    Variable("KUBECONFIG", "the file that says how to reach the Kubernetes cluster", "`~/.kube/config`"),
)
BEHAVIOUR = (
    PATIENCE,
    STALL_MINUTES,
    THREADS,
    OMP_NUM_THREADS,
    Variable("TMPDIR", "the folder for temporary files", "`/tmp`"),
    LOG_FORMAT,
    WEBHOOK,
    KFP_URL,
)
SURROUNDINGS = (
    Variable("MLFLOW_RUN_ID", "by the MLflow plug-in of Kubeflow Pipelines: the run to join"),
    Variable("MLFLOW_EXPERIMENT_ID", "by the same plug-in: the experiment to join"),
    Variable("KFP_POD_NAME", "by Kubeflow Pipelines: the name of the step's pod"),
    Variable("HOSTNAME", "by Kubernetes: the name of the pod, if `KFP_POD_NAME` is not set"),
    IN_CLUSTER,
    Variable("PET_NPROC_PER_NODE", "by Kubeflow Trainer: how many training processes a pod starts"),
    TRAINER_URL,
    TRAINER_CA,
    TRAINER_TOKEN,
    Variable("RANK", "by torchrun: the number of a training process among all processes"),
    Variable("LOCAL_RANK", "by torchrun: the number of a training process on its machine"),
    Variable("WORLD_SIZE", "by torchrun: the total number of training processes"),
)

SECTIONS = (
    Section("Object store", OBJECT_STORE),
    Section("MLflow", MLFLOW),
    Section(
        "Hugging Face hub",
        HUB,
        "Its library reads these, for weights of CLIP and for `cliptea bundle --push-to-hub USER/NAME`.",
    ),
    Section("Commands that talk to a cluster", CLUSTER),
    Section("How a run behaves", BEHAVIOUR),
    Section(
        "Set by the pipeline",
        (RETRIES, STUDENTS, GPUS, GRACE, IMAGE, COMMIT),
        "You do not need to set these. The compiled pipeline and the container image set them.",
    ),
    Section(
        "Set by cliptea for its own processes",
        (EVENTS, ALIVE, TASKS_LOCK, STEP, FAILURE, PULSE),
        "Do not set these. `cliptea run`, the steps and the training processes use them to communicate.",
    ),
    Section(
        "Set by Kubernetes, Kubeflow and torchrun",
        SURROUNDINGS,
        "You do not need to set these. cliptea reads them if they are set.",
    ),
)

SECRETS |= {WEBHOOK.name, "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "KFP_TOKEN", "MLFLOW_TRACKING_TOKEN"}
SECRETS |= {"KFP_EXISTING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD", "HF_TOKEN"}
SECRETS |= {"HUGGING_FACE_HUB_TOKEN"}  # the older name, which the library still reads

INTRODUCTION = """\
<!-- Generated from components/cliptea/env.py by `make environment`. Edit that file instead. -->

# Environment variables

Use presets and `--set` for the settings of an experiment. Environment variables are for addresses, folders and
credentials. They never change a result.
"""


def in_local_run() -> bool:
    """Whether this process is part of a run on one machine. It is false on a cluster and in a command."""
    return EVENTS.is_set()


def page() -> str:
    """The text of docs/environment.md."""
    return "\n".join([INTRODUCTION, *(_shown(section) for section in SECTIONS)])


def _shown(section: Section) -> str:
    if any(variable.default for variable in section.variables):
        table = ["| variable | default | meaning |", "|---|---|---|"]
        table += [f"| `{variable.name}` | {variable.default} | {variable.meaning} |" for variable in section.variables]
    else:
        table = ["| variable | meaning |", "|---|---|"]
        table += [f"| `{variable.name}` | {variable.meaning} |" for variable in section.variables]
    text = [section.text, ""] if section.text else []
    return "\n".join([f"## {section.title}", "", *text, *table, ""])


if __name__ == "__main__":
    print(page(), end="")
