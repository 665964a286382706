"""Bundles as model repositories of the Hugging Face hub, or of a server that speaks its protocol.

The library takes address and token from its own variables and files: HF_ENDPOINT, HF_TOKEN, HF_HOME.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import get_session, validate_repo_id

from cliptea.errors import ClipteaError, ConfigError, ServerAway, StorageError, described, one_line
from cliptea.outage import Outage, untrusted

__all__ = ["push", "require_pushable"]

ANSWER_SECONDS = 60.0  # for each answer of the hub; the library alone would wait forever
# Errors of the library's HTTP client by name, since the client differs between versions of the library.
PASSING = {"NetworkError", "RemoteProtocolError", "TimeoutException"}
LOG_IN = "set HF_TOKEN, or run `hf auth login`"


def require_pushable(name: str) -> None:
    """Check what can be checked without the hub.

    Raises:
        ConfigError: the name cannot be one of a repository, there is no usable token, HF_HUB_OFFLINE is set, or
            HF_ENDPOINT is not an address.
    """
    expected = "USER/NAME or ORGANISATION/NAME of letters, digits, -, _ and . as in vision-team/meadows"
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ConfigError(f"--push-to-hub {name} cannot be the name of a repository", expected) from None
    if "/" not in name:
        raise ConfigError(f"--push-to-hub {name} does not say whose repository it is", expected)
    if constants.HF_HUB_OFFLINE:
        raise ConfigError(
            "--push-to-hub needs the hub, and HF_HUB_OFFLINE forbids using it",
            todo="unset HF_HUB_OFFLINE, or leave out --push-to-hub",
        )
    if not constants.ENDPOINT.startswith(("http://", "https://")):
        raise ConfigError(f"HF_ENDPOINT={constants.ENDPOINT} is not an address", "one such as https://hub.example")
    token = get_token()
    if not token:
        raise ConfigError("there is no token for the hub", "one that may write", LOG_IN)
    if not re.fullmatch("[!-~]+", token):
        raise ConfigError("the token for the hub holds a space or another character that no token has", todo=LOG_IN)


def push(name: str, folder: Path, files: Iterable[str], unwanted: Mapping[str, bytes], private: bool = False) -> str:
    """Upload files into a model repository, which is created if it does not exist, and return the commit's address.

    Args:
        name: OWNER/NAME of the repository.
        files: paths in the folder.
        unwanted: content by path of files that are deleted in the same commit. One with other content stays.
        private: whether only its owner may see the repository.

    Raises:
        ClipteaError: the hub cannot be reached or refuses something. It has taken all of the files or none.
    """
    api = HfApi()
    hub = f"the hub at {api.endpoint}"
    todo = f"run the command again; the bundle is complete in {folder}"
    try:
        _create(api, hub, name, private)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=sorted(files),
            delete_patterns=_present(api, name, unwanted),
            commit_message="Upload a bundle of cliptea",
        )
    except ClipteaError:
        raise
    except Exception as error:  # of the library, its HTTP client, its upload of large files, or the system
        raise _meant(error, hub, name, todo) from error
    return commit.commit_url


def _present(api: HfApi, name: str, files: Mapping[str, bytes]) -> list[str]:
    """Paths of those of the files that are in the repository with this content."""
    ids = {path: hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest() for path, data in files.items()}  # Git's
    found = api.list_repo_tree(name, recursive=True) if files else ()
    return [one.path for one in found if isinstance(one, RepoFile) and ids.get(one.path) == one.blob_id]


def _create(api: HfApi, hub: str, name: str, private: bool) -> None:
    """Create the repository. This is the first request, and the only one that the library does not repeat itself."""
    outage = Outage(hub)
    while True:
        get_session().timeout = ANSWER_SECONDS
        try:
            api.create_repo(name, private=private or None, exist_ok=True)
            break
        except Exception as error:
            if not _passing(error) or not outage.wait(_reason(error)):
                raise
    outage.over()
    if private and not api.repo_info(name).private:
        raise StorageError(
            f"--private: {name} at {hub} exists already, and everybody can read it",
            "a private repository, or a new one",
            "change this in its settings there, choose another name, or leave out --private",
        )


def _passing(error: Exception) -> bool:
    """Whether the hub may answer soon."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__:
        causes.append(cause)
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & PASSING) and not any(untrusted(cause) for cause in causes)


def _reason(error: Exception) -> str:
    if isinstance(error, HfHubHTTPError):
        return f"{error.response.status_code} {error.response.reason_phrase}"
    return one_line(error) or type(error).__name__


def _meant(error: Exception, hub: str, name: str, todo: str) -> ClipteaError:
    if _passing(error):
        return ServerAway(f"{hub} cannot be reached ({_reason(error)})", "a hub at HF_ENDPOINT that answers", todo)
    if not isinstance(error, HfHubHTTPError):
        return StorageError(f"the upload to {name} at {hub} failed: {described(error)}", todo=todo)
    said = f"{_reason(error)}: {error.server_message}" if error.server_message else _reason(error)
    what, expected, first = {
        401: (f"{hub} does not accept the token (401)", "a valid one", f"{LOG_IN}; "),
        403: (f"the token may not write to {name} at {hub} (403)", "one with write access to it", f"{LOG_IN}; "),
        429: (f"{hub} has received too many requests (429)", "", "wait some minutes; "),
    }.get(error.response.status_code, (f"{hub} refuses the upload to {name} ({said})", "", ""))
    return StorageError(what, expected, first + todo)
