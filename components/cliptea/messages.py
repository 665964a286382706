"""What every text for people goes through: no secrets, no control characters, and what an error of the system means."""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Sequence
from decimal import Decimal
from urllib.parse import unquote

__all__ = [
    "ERRNOS", "FULL", "SECRETS", "causes", "holds_secret", "meaning", "names_secret", "number_of",
    "of_connection", "of_signal", "plain", "plain_lines", "printable", "redacted", "shortened", "three_digits",
]  # fmt: skip

Texts = tuple[tuple[str, tuple[str, str]], ...]  # patterns, each with what it means and what to do

SECRETS: set[str] = set()  # names of environment variables whose values are secret; `cliptea.env` fills it
HIDDEN = "***"
LONGEST = 4000  # characters of a text in a message
SHORTEST = 8  # characters; shorter values of variables may be part of a word
SECRET_KEY = re.compile(r"passw|secret|credential|access_?key|api_?key|private", re.IGNORECASE)
BOTH_CASES = r"(?=[\w-]*[a-z])(?=[\w-]*[A-Z])"  # as in random letters, but hardly in a name of a folder
NAMED = r"(?:(?=[\w.-]*(?:signature|credential|token|passw|pwd|secret|key|auth|session))[\w.-]++|sig)"
# One slash, if it was taken for a path.
BEFORE_USER = r"://|(?<=http:)/|(?<=https:)/|(?<=sql:)/|(?<=redis:)/|(?<=ftp:)/|(?<=\bs3:)/|(?<=\bgs:)/"
SERVER = r"(?=[\w.-]+:\d+\b|localhost\b|\d+\.\d+\.)"
# These take a time that is proportional to the length of the text, whatever it is: repeats give nothing back (++), and
# what may begin at many places has a limit.
SHAPES = (
    # The user part of an address with a space in the password, where a server follows.
    (
        re.compile(rf"({BEFORE_USER})[^/\s@:'\"]*+:(?!\s|\d+[\s/:.])[^/\n,;]{{1,128}}@(?:{SERVER}|(?=[\w-]+\.\w))"),
        rf"\1{HIDDEN}@",
    ),
    # The same without a space, even with a slash.
    (re.compile(rf"({BEFORE_USER})(?:[^/\s@'\"]++|[^/\s@:]*+:(?!\d+/)[^\s@]{{0,256}}+)@"), rf"\1{HIDDEN}@"),
    # The same without ://, where a server follows. After a slash, only the last part of a name is a user.
    (re.compile(rf"(?:(?<![\w/.+-])|(?<=/)(\w*+[.+-]))[\w.+-]++:[^\s@/:'\"]++@{SERVER}"), rf"\1{HIDDEN}@"),
    (re.compile(rf"([?&#;]{NAMED}=)[^\s&#;'\"]+", re.IGNORECASE), rf"\1{HIDDEN}"),  # a query or a fragment
    (re.compile(r"\b((?:password|passwd|pwd|secret)=)[^\s&;'\"]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b(Bearer|Basic) [\w.~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), HIDDEN),  # AWS
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abeprs]-)[\w-]{16,}"), HIDDEN),
    # Folders and buckets may begin like these tokens, so their exact shape counts, and not after a slash.
    (re.compile(rf"(?<![\w/-])hf_{BOTH_CASES}[A-Za-z0-9]{{34}}(?![\w-])"), HIDDEN),  # often without a digit
    (re.compile(rf"(?<![\w/-])sk-{BOTH_CASES}(?=[\w-]*\d)[A-Za-z0-9]{{20,}}(?![\w-])"), HIDDEN),
    (re.compile(rf"(?<![\w/-])sk-(?:proj|svcacct|admin|ant-\w+)-{BOTH_CASES}(?=[\w-]*\d)[\w-]{{20,}}"), HIDDEN),
    (re.compile(r"(?<![\w/-])dapi(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{32}(?:-\d+)?(?![\w-])"), HIDDEN),
    (re.compile(r"\beyJ[\w-]{8,512}+\.[\w-]{4,}\.?[\w-]*"), HIDDEN),  # JSON web tokens
    (re.compile(r"(hooks\.slack\.com/services/)[\w/]+"), rf"\1{HIDDEN}"),
)

FULL = "free some space, or use another disk"
MEMORY = "give it more memory, or lower the batch size (train.batch_size, or raise train.accumulate)"
GPU_MEMORY = f"{MEMORY}; other processes may use it too, see nvidia-smi"
SHARED = "/dev/shm, the shared memory of data loading, is full"
SHARED_REMEDY = "raise shared_memory in the placement (docker run --shm-size), or set train.workers=0"
FILES, FILES_REMEDY = "the limit of open files is reached", "raise it with `ulimit -n 65536`"
TASKS, TASKS_REMEDY = (
    "the limit of processes and threads is reached",
    "raise it: `ulimit -u`, or the limit of the pod",
)
ERRNOS = {
    errno.ENOSPC: ("the disk is full", FULL),
    errno.EDQUOT: ("the disk quota of this user is used up", FULL),
    errno.EFBIG: ("the file is larger than this disk or `ulimit -f` allows", "use another disk, or raise the limit"),
    errno.EROFS: ("the disk is mounted read-only", "choose a folder that can be written"),
    errno.EIO: ("the disk has an input/output error", "look into the log of the machine, and use another disk"),
    errno.ESTALE: ("the network disk has lost the file", "mount it again, and run again"),
    errno.ENAMETOOLONG: ("the name is too long for this disk", "choose shorter names of files and folders"),
    errno.EMFILE: (FILES, FILES_REMEDY),
    errno.ENFILE: (FILES, FILES_REMEDY),
    errno.ENOMEM: ("memory is exhausted", MEMORY),
}
REFUSED = ("this user may not do that", "correct the permissions, or choose another folder")  # for a file or folder
# Texts of libraries that do not tell the cause by a number: what they mean, and what to do.
CONNECTION_TEXTS = (  # those that do not go away by waiting for the server
    (r"can't allocate memory|Cannot allocate memory|MemoryError", ("memory is exhausted", MEMORY)),
    (
        r"TLS CA certificate bundle|invalid path: .*(?:pem|crt|cert)",
        (
            "the file of CA certificates does not exist",
            "correct SSL_CERT_FILE, REQUESTS_CA_BUNDLE or MLFLOW_TRACKING_SERVER_CERT_PATH",
        ),
    ),
    (
        r"WRONG_VERSION_NUMBER|wrong version number|RECORD_LAYER_FAILURE|record layer failure",
        ("the server speaks http and not https", "write its address with http://"),
    ),
    (
        r"HTTP request to an HTTPS server|plain HTTP request was sent to HTTPS|\\x15\\x03",
        ("the server speaks https and not http", "write its address with https://"),
    ),
)
TEXTS = (
    (r"(?s)(?:/dev/shm|/torch_\d+).*No space left|No space left.*/dev/shm", (SHARED, SHARED_REMEDY)),
    (r"Bus error|out of shared memory", (SHARED, SHARED_REMEDY)),
    (
        r"killed by signal: Killed",
        ("a data loading process was killed by SIGKILL, probably for lack of memory", MEMORY),
    ),
    (
        r"No usable temporary directory",
        ("no temporary folder is writable", "set TMPDIR to a folder with free space"),
    ),
    (r"items of ancdata", (FILES, FILES_REMEDY)),
    (r"can't start new thread|Resource temporarily unavailable", (TASKS, TASKS_REMEDY)),
    (
        r"(?:CUDA|HIP)\b.{0,40}out of memory|OutOfMemoryError|_STATUS_ALLOC_FAILED",
        ("the memory of the GPU is full", GPU_MEMORY),
    ),
    (r"std::bad_alloc|not enough memory", ERRNOS[errno.ENOMEM]),
    (r"database or disk is full", ERRNOS[errno.ENOSPC]),
    *((re.escape(os.strerror(number)), meant) for number, meant in ERRNOS.items()),  # of Rust and C++
    *CONNECTION_TEXTS,
    (
        r"DataLoader worker .* exited unexpectedly",
        ("a data loading process has died, probably for lack of memory", MEMORY),
    ),
)


def redacted(text: str) -> str:
    """The text with `***` in place of passwords, tokens and the like: by their shape, or as values of `SECRETS`."""
    text = _hidden(text)
    return re.sub(r"\S+", _decoded, text) if "%" in text else text


def _decoded(word: re.Match[str]) -> str:
    """The word as it is, or decoded if it holds a secret then: the path of a file:// URI may hold another address."""
    text = unquote(word[0])
    return word[0] if "%" not in word[0] or (hidden := _hidden(text)) == text else hidden


def _hidden(text: str) -> str:
    for name in SECRETS:
        value = os.environ.get(name, "")
        if len(value) >= SHORTEST and not value.isalpha() and value in text:
            text = text.replace(value, HIDDEN)
    for shape, instead in SHAPES:
        text = shape.sub(instead, text)
    return text


def holds_secret(text: str) -> bool:
    """Whether a text, such as an address, seems to hold a secret."""
    return redacted(text) != text


def names_secret(key: str) -> bool:
    """Whether a key, such as that of a setting, seems to name a secret."""
    return SECRET_KEY.search(key) is not None


def plain(text: str) -> str:
    """A text without secrets and control characters, see `redacted` and `printable`."""
    return printable(redacted(text))


def plain_lines(text: str) -> str:
    """The same for a text of several lines, such as a traceback."""
    return "\n".join(plain(line) for line in text.split("\n"))


def number_of(number: int, name: str) -> str:
    """A number of things in words: 1 image, 2 images, 3 classes."""
    ending = "" if number == 1 else "es" if name.endswith("s") else "s"
    return f"{number} {name}{ending}"


def three_digits(value: float) -> str:
    """A number with three significant digits, or its whole part if that is longer; never with an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{Decimal(f'{value:.3g}'):f}"


def shortened(text: str, longest: int = LONGEST) -> str:
    """Without the middle if it is very long: names and values in files of others may have any length."""
    return text if len(text) <= longest else f"{text[: longest // 2]} ... {text[-longest // 2 :]}"


def printable(text: str) -> str:
    """The text with control characters and bytes that are not UTF-8 as `\\x1b`, `\\udcff`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def meaning(error: BaseException) -> tuple[str, str] | None:
    """What an error of the system, or one that it caused, means, and what to do; None if it is not known."""
    found = causes(error)
    known = _by_text(found, TEXTS) or _by_number(error)
    # What a library tried before, such as a file that it may not read, need not be the reason. A full disk is.
    return known or next((ERRNOS[e.errno] for e in found if isinstance(e, OSError) and e.errno in ERRNOS), None)


def causes(error: BaseException) -> list[BaseException]:
    """The error, what caused it, what caused that, and so on."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return found


def _by_number(error: BaseException) -> tuple[str, str] | None:
    if not isinstance(error, OSError):
        return None
    if isinstance(error, BlockingIOError) and error.errno == errno.EAGAIN:
        return TASKS, TASKS_REMEDY
    if isinstance(error, PermissionError):  # without a file, such as of a firewall, other permissions are meant
        return REFUSED if error.filename is not None else None
    return ERRNOS.get(error.errno or 0)


def of_connection(error: BaseException) -> tuple[str, str] | None:
    """What the error of a connection means, and what to do, if waiting for the server does not help; otherwise None."""
    return _by_text([error], CONNECTION_TEXTS)


def _by_text(errors: Sequence[BaseException], texts: Texts) -> tuple[str, str] | None:
    text = "\n".join(
        shortened(f"{type(error).__name__}: {error} {getattr(error, 'filename', None) or ''}") for error in errors
    )
    return next((meant for pattern, meant in texts if re.search(pattern, text)), None)


def of_signal(number: int) -> str:
    """The name of a signal that has killed a process, with its most likely cause and what to do."""
    name = signal.Signals(number).name
    causes = {
        signal.SIGKILL: f"{name}, probably for lack of memory; {MEMORY}",
        signal.SIGBUS: f"{name}: {SHARED}; {SHARED_REMEDY}",
        signal.SIGXFSZ: f"{name}: a file is larger than `ulimit -f` allows; raise it",
        signal.SIGXCPU: f"{name}: the limit of processor time (`ulimit -t`) is reached; raise it",
    }
    return causes.get(signal.Signals(number), f"{name}; see the log")
