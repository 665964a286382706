"""Every environment variable that cliptea reads or sets. `docs/environment.md` is made of this module.

A new variable is added here, as one constant, and put into one of the `SECTIONS`, which say who sets it. Then
`make environment` writes the page anew. Other modules use the constant, as in `env.STORE.get()`, and never its name.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from cliptea.errors import ConfigError

__all__ = ["SECTIONS", "Section", "Variable", "in_local_run", "page"]

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Variable:
    """One environment variable. An empty value counts as none.

    Attributes:
        name: as in the environment.
        meaning: for the page: what it says, with units.
        default: for the page: what holds without it; "" where nobody need ask, since it is set for you.
        expected: for errors: what a number has to be.
    """

    name: str
    meaning: str
    default: str = ""
    expected: str = ""

    def get(self) -> str:
        """The value; "" when it is not set."""
        return os.environ.get(self.name, "")

    def is_set(self) -> bool:
        """Whether it is there at all, if only as an empty text."""
        return self.name in os.environ

    def set(self, value: str) -> None:
        """Give it a value in this process and in those that it starts from now on."""
        os.environ[self.name] = value

    def number(self) -> float | None:
        """The value as a number; None when it is not set.

        Raises:
            ConfigError: it is no finite number of at least 0.
        """
        return self._at_least(0, float)

    def count(self) -> int | None:
        """The value as a whole number; None when it is not set.

        Raises:
            ConfigError: it is no whole number of at least 1.
        """
        return self._at_least(1, int)

    def _at_least(self, least: int, kind: type[Number]) -> Number | None:
        given = self.get()
        if not given:
            return None
        with suppress(ValueError):
            if least <= (number := kind(given)) < math.inf:
                return number
        raise ConfigError(f"{self.name} is {given!r}", self.expected)


class Section(NamedTuple):
    """A part of the page: its title, its variables, and a word to the reader or nothing."""

    title: str
    variables: tuple[Variable, ...]
    text: str = ""


STORE = Variable(
    "CLIPTEA_STORE",
    "where a run keeps its outputs: `s3://bucket/folder` or `file:///folder`",
    "the work directory's `store/`",
)
S3_ENDPOINT = Variable("CLIPTEA_S3_ENDPOINT", "the S3 server, `http://HOST:PORT` or `https://HOST`", "AWS")
CACHE = Variable(
    "CLIPTEA_CACHE", "folder for downloaded objects and unfinished work", "`cliptea` in the user's cache folder"
)
CACHE_GIB = Variable(
    "CLIPTEA_CACHE_GIB",
    "how much of it shards may take; the least recently used go first",
    "16",
    "a number of GiB, 0 for no cache",
)
PATIENCE = Variable(
    "CLIPTEA_PATIENCE",
    "seconds that S3, MLflow or an API may be away; 0 is one try",
    "600 in a step, 10 in a command",
    "a number of seconds, such as 600, or 0 for one try",
)
THREADS = Variable(
    "CLIPTEA_THREADS", "threads of torch", "the cores of the process", "a whole number of threads, at least 1"
)
OMP_NUM_THREADS = Variable(
    "OMP_NUM_THREADS", "threads of numerical libraries; on one machine the smaller of the two holds for both", "none"
)
WEBHOOK = Variable("CLIPTEA_WEBHOOK", "an address that is told how a run ended; it is kept as a secret", "none")
KFP_URL = Variable("CLIPTEA_KFP_URL", "address of Pipelines' pages, for a link from MLflow", "none")

RETRIES = Variable(
    "CLIPTEA_RETRIES",
    "how often a step on a cluster tries again what may pass, as JSON; from the placement's `retries`",
    expected='JSON such as {"count": 2, "wait_seconds": 30}',
)
STUDENTS = Variable(
    "CLIPTEA_STUDENTS",
    "how many students one run on a cluster has room for; from the placement's `students`",
    expected="a whole number of students, at least 1",
)
IMAGE = Variable("CLIPTEA_IMAGE", "the container image that a run was made with; a tag in MLflow")
COMMIT = Variable("CLIPTEA_COMMIT", "the commit of the sources in the image; a tag in MLflow")

EVENTS = Variable(
    "CLIPTEA_EVENTS", "the file to which the steps of a run on one machine append their news, one line of JSON each"
)
ALIVE = Variable("CLIPTEA_ALIVE", "a named pipe that `cliptea run` holds open for writing as long as it lives")
TASKS_LOCK = Variable("CLIPTEA_TASKS_LOCK", "a file that every local task holds locked (shared) as long as it lives")
STEP = Variable("CLIPTEA_STEP", "name and label of the present step as JSON, for the processes that it starts")
FAILURE = Variable("CLIPTEA_FAILURE", "the file in which the first of the training processes that fails says why")

OBJECT_STORE = (
    STORE,
    S3_ENDPOINT,
    Variable("AWS_ACCESS_KEY_ID", "credentials: the key's name", "none"),
    Variable("AWS_SECRET_ACCESS_KEY", "credentials: the key itself", "none"),
    Variable("AWS_SESSION_TOKEN", "credentials that last for a while: their token", "none"),
    Variable(
        "AWS_SHARED_CREDENTIALS_FILE",
        "a file of credentials; without one, an IAM role is tried",
        "`~/.aws/credentials`",
    ),
    Variable("AWS_PROFILE", "the section of that file", "`default`"),
    Variable("AWS_REGION", "region of the bucket", "the server is asked"),
    CACHE,
    CACHE_GIB,
    Variable("XDG_CACHE_HOME", "the user's cache folder", "`~/.cache`"),
    Variable("SSL_CERT_FILE", "a file of CA certificates for https", "certifi's"),
)
MLFLOW = (
    Variable("MLFLOW_TRACKING_URI", "the tracking server", "the work directory's database"),
    Variable("MLFLOW_TRACKING_TOKEN", "credentials: a bearer token, or the next two", "none"),
    Variable("MLFLOW_TRACKING_USERNAME", "credentials: the user", "none"),
    Variable("MLFLOW_TRACKING_PASSWORD", "credentials: the password; one in the address is refused", "none"),
)
CLUSTER = (
    Variable("KFP_ENDPOINT", "address of Kubeflow Pipelines", "none"),
    Variable("KFP_TOKEN", "a bearer token for it", "none"),
    Variable("KFP_NAMESPACE", "your namespace on a server of several users", "none"),
    Variable("KUBECONFIG", "the Kubernetes cluster", "`~/.kube/config`"),
)
SURROUNDINGS = (
    Variable("MLFLOW_RUN_ID", "by the MLflow plug-in of Kubeflow Pipelines: the run to join"),
    Variable("MLFLOW_EXPERIMENT_ID", "by the same plug-in: the experiment to join"),
    Variable("KFP_POD_NAME", "by Kubeflow Pipelines: the name of the step's pod"),
    Variable("HOSTNAME", "by Kubernetes: the same, where Pipelines does not say it"),
    Variable("KUBERNETES_SERVICE_HOST", "by Kubernetes: this is a pod, which needs no `KUBECONFIG`"),
    Variable("PET_NPROC_PER_NODE", "by Kubeflow Trainer: how many training processes a pod starts"),
    Variable("RANK", "by torchrun: the number of a training process, among all"),
    Variable("LOCAL_RANK", "by torchrun: its number on its machine"),
    Variable("WORLD_SIZE", "by torchrun: how many training processes there are"),
)

SECTIONS = (
    Section("Object store", OBJECT_STORE),
    Section("MLflow", MLFLOW),
    Section("Commands that talk to a cluster", CLUSTER),
    Section("How a run behaves", (PATIENCE, THREADS, OMP_NUM_THREADS, WEBHOOK, KFP_URL)),
    Section(
        "Set by the pipeline",
        (RETRIES, STUDENTS, IMAGE, COMMIT),
        "You need not set these. The compiled pipeline and the container image do.",
    ),
    Section(
        "Set by cliptea for its own processes",
        (EVENTS, ALIVE, TASKS_LOCK, STEP, FAILURE),
        "Leave these alone. They are how `cliptea run`, a step and the processes of training know of each other.",
    ),
    Section(
        "Set by the surroundings",
        SURROUNDINGS,
        "Kubernetes, Kubeflow and torchrun set these. They are read where they are there.",
    ),
)

INTRODUCTION = """\
<!-- Made of components/cliptea/env.py by `make environment`. Change it there. -->

# Environment variables

Settings of an experiment belong into presets and `--set`. Environment variables say where things are and who you are;
they never change a result, and secrets belong here.
"""


def in_local_run() -> bool:
    """Whether this process is part of a run on one machine. On a cluster, and in a command, it is not."""
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
