"""No text for people holds a secret or a control character, and errors of the system say what they mean."""

import errno
import json
import os
import re
import signal
import ssl
import time
from pathlib import Path

import numpy as np
import pytest

from cliptea import env, errors, progress, settings
from cliptea.errors import ConfigError, DataError, StorageError, described
from cliptea.messages import holds_secret, meaning, number_of, of_connection, of_signal, plain, redacted, three_digits
from cliptea.storage import FileStore, fetch, open_store

HUSH = "hunter2x"
ADDRESSES = [
    f"http://h/x?password={HUSH}", f"http://{HUSH}@h", f"http://u:{HUSH}@h/x", f"http://u:{HUSH}/q@h", f"s3://k:{HUSH}@b/x",
    f"ftp://u:{HUSH}@h", f"http://h/#access_token={HUSH}", f"http://h/?a=1&X-Amz-Signature={HUSH}", f"https://h/x?sig={HUSH}",
    f"user:{HUSH}@host:9000", f"user:{HUSH}@10.0.0.1/x", f"postgresql://u:{HUSH}@h/d", f"sqlite:///x?key={HUSH}",
    f"gs://b/x;secret={HUSH}", f"mysql+pymysql://root:{HUSH}@h:3306/db", f"https://h/t?API_KEY={HUSH}", f"redis://:{HUSH}@h",
    f"http:/{HUSH}@h", f"http:/u:{HUSH}@h:9/x", f"http://u:{HUSH} x@127.0.0.1:9/",
    f"postgresql://u:x {HUSH}@db.example/d", f"postgresql://u:p@x {HUSH}@db:5432/d",
    f"file:///x?token={HUSH}", f"Authorization: Bearer {HUSH}", f"host=h password={HUSH} user=u",
    "AKIA" + HUSH.upper() * 2, f"ghp_{HUSH * 4}", f"hf_{HUSH * 4}Xy", f"sk-{HUSH.title() * 4}",
    f"key sk-proj-{HUSH.title()}_{HUSH * 2}-x",
    f"sk-ant-api03-{HUSH.title()}-{HUSH * 2}", f"eyJ{HUSH}0.{HUSH}.{HUSH}",
    f"https://hooks.slack.com/services/T0/B0/{HUSH}",
]  # fmt: skip
OTHERS = [
    "http://HOST:PORT or models:/NAME@champion", "http://host:8080 failed: ask a@b.example",
    "http://host:8080: ask a@b.example", "see https://docs.example: by a@b.example",
    "http://host:8080/a", "sqlite:////a@b/mlflow.db", "models:/cliptea-demo@champion", "REGISTRY/cliptea@sha256:ab",
    "ghcr.io/x/y:1.2@sha256:ab", "s3://bucket/a/b@2x.png", "file:///my%20data?x", "s3://b/a?versionId=3", "a@b.c",
    "method.global_token=max", "expected key=value, such as train.iterations=200", "open_clip:ViT-B@openai",
    "label 'a:b@c'", "data.root=/mnt/hf_datasets_pascal_voc", "s3://sk-telecom-vision-data/x",
    "hf_datasets_pascal_voc_2012", "file:///a/b%40c/100%25/x%3Fy%3D1",
    "/data/sk-learn-experiments-2024/", "data.root=sk-Learn-Experiments-2024-for-all", "dapi-for-all-of-us-2024-x",
    "/data/dapi0123456789abcdef0123456789abcdef",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_with_a_secret_is_never_repeated(address, monkeypatch, tmp_path):
    hush = re.compile(HUSH, re.IGNORECASE)
    assert holds_secret(address)
    events = tmp_path / "events"
    monkeypatch.setenv("CLIPTEA_EVENTS", str(events))
    progress.note(f"reading {address} now")
    texts = [
        str(DataError(f"cannot read {address}", address, address)),
        DataError(address).what,
        described(OSError(f"no connection to {address}")),
        str(DataError(f"{Path(address).absolute().as_uri()} does not exist")) if "://" in address else "",
        events.read_text(),
    ]
    for refused in (
        lambda: open_store(address),
        lambda: fetch(address),
        lambda: settings.load("smoke", [f"data.root={address}"]),
        lambda: settings.load("smoke", [f"evaluation.figures=['{address}']"]),
    ):
        with pytest.raises((ConfigError, StorageError)) as caught:
            refused()
        texts.append(str(caught.value))
    assert not [text for text in texts if hush.search(text)]


def test_a_token_of_hexadecimal_digits_is_hidden():
    assert redacted("token dapi0123456789abcdef0123456789abcdef") == "token ***"


def test_published_facts_are_passed_on_as_they_are(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIPTEA_EVENTS", str(tmp_path / "events"))
    uri = "file:///data/x?token=a/report.html"
    with progress.listening(lambda event: heard.append(event["values"])):
        heard = []
        progress.publish(report=uri)
    assert json.loads((tmp_path / "events").read_text())["values"] == {"report": uri}
    assert heard == [{"report": uri}]


@pytest.mark.parametrize("text", OTHERS)
def test_other_texts_stay(text):
    assert redacted(text) == text


@pytest.mark.parametrize("name", ["CLIPTEA_WEBHOOK", "AWS_SECRET_ACCESS_KEY", "KFP_TOKEN", "MLFLOW_TRACKING_PASSWORD"])
def test_the_values_of_secret_variables_are_hidden_wherever_they_stand(name, monkeypatch):
    monkeypatch.setenv(name, "https://chat/2b7-rooms/x")
    assert env.WEBHOOK.name == "CLIPTEA_WEBHOOK"  # whose module says which are secret
    assert described(ValueError("sent to https://chat/2b7-rooms/x.")) == "ValueError: sent to ***."


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[31mred", r"a\x1b[31mred"),
        ("bell\x07", r"bell\x07"),
        (os.fsdecode(b"caf\xe9.png"), r"caf\udce9.png"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("zwölf Äpfel 猫.png", "zwölf Äpfel 猫.png"),
    ],
)
def test_control_characters_in_names_are_shown_escaped(name, shown, monkeypatch, tmp_path, capsys):
    assert plain(name) == shown
    assert str(DataError(f"cannot read {name}")) == f"cannot read {shown}"
    monkeypatch.delenv("CLIPTEA_EVENTS", raising=False)
    progress.warn(f"left out {name}")
    assert capsys.readouterr().err == f"warning: left out {shown}\n"
    monkeypatch.setenv("CLIPTEA_EVENTS", str(tmp_path / "events"))
    progress.warn(f"left out {name}")
    assert json.loads((tmp_path / "events").read_text())["text"] == f"left out {shown}"


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9.bin"), "x" * 240, "猫" * 80])
def test_odd_names_of_files_work_in_a_folder_store(tmp_path, name):
    store = FileStore(tmp_path)
    store.put(f"a/{name}", b"data")
    assert store.get(f"a/{name}") == b"data"
    assert [entry.key for entry in store.entries("a")] == [f"a/{name}"]


@pytest.mark.parametrize(
    ("error", "what", "todo"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "the disk is full", "free some space"),
        (OSError(errno.ENOSPC, "No space left on device", "/dev/shm/x"), "shared memory .* is full", "shared_memory"),
        (RuntimeError("unable to write to file </torch_1_3>: No space left on device (28)"), "/dev/shm", "shm-size"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "/dev/shm", "shared_memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "SIGKILL, probably", "memory"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "has died, probably", "memory"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota", "free some space"),
        (OSError(errno.EMFILE, "Too many open files"), "open files", "ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), "open files", "ulimit -n"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "processes and threads", "ulimit -u"),
        (RuntimeError("can't start new thread"), "processes and threads", "ulimit -u"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory is exhausted", "batch size"),
        (MemoryError(), "memory is exhausted", "batch size"),
        (RuntimeError("std::bad_alloc"), "memory is exhausted", "batch size"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), "memory is ex", "batch size"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory of the GPU", "train.accumulate"),
        (RuntimeError("CUDA error: out of memory"), "memory of the GPU", "nvidia-smi"),
        (RuntimeError("HIP out of memory. Tried to allocate 2 GiB"), "memory of the GPU", "train.accumulate"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "memory of the GPU", "train.accumulate"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "memory of the GPU", "train.accumulate"),
        (RuntimeError("Disk quota exceeded (os error 122)"), "quota", "free some space"),
        (RuntimeError("Read-only file system (os error 30)"), "read-only", "choose"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only", "choose"),
        (OSError(errno.EACCES, "Permission denied", "/x"), "may not", "permissions"),
        (OSError(errno.EIO, "Input/output error"), "input/output error", "disk"),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "too long", "shorter"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/t']"), "temporary folder", "TMPDIR"),
        (OSError("Could not find a suitable TLS CA certificate bundle, invalid path: /x"), "CA cert", "SSL_CERT_FILE"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "speaks http and not https", "http://"),
    ],
)  # fmt: skip
def test_an_error_of_the_system_says_what_it_means(error, what, todo):
    meant = meaning(error)
    assert meant is not None
    assert re.search(what, meant[0])
    assert re.search(todo, meant[1])
    assert re.match(f".*{what}.*{todo}", described(error), re.DOTALL)


@pytest.mark.parametrize("why", ["cause", "context"])
def test_an_error_means_what_has_caused_it(why):
    try:
        try:
            raise OSError(errno.EDQUOT, "quota")
        except OSError as quota:
            if why == "cause":
                raise RuntimeError("cannot write") from quota
            raise RuntimeError("cannot write")  # noqa: B904 (as libraries do)
    except RuntimeError as error:
        caught = error
    assert described(caught).startswith("the disk quota of this user is used up (RuntimeError: cannot write); free")
    caught.__cause__ = caught  # nothing ends in a circle
    assert meaning(caught) is None


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file", "/x"),
        FileNotFoundError(2, "No such file or directory", "/dev/shm/data"),
        PermissionError(errno.EPERM, "Operation not permitted"),  # of a firewall, not of a file
        PermissionError(errno.EACCES, "Permission denied"),
        ValueError("7"),
        KeyError("x"),
    ],
)
def test_other_errors_are_not_explained_away(error):
    assert meaning(error) is None
    assert described(error).startswith(type(error).__name__)


def test_only_what_waiting_does_not_mend_ends_the_wait_for_a_server():
    assert of_connection(OSError("[SSL: WRONG_VERSION_NUMBER] wrong version number"))
    assert of_connection(OSError(errno.ENOMEM, "Cannot allocate memory"))
    for number in (errno.EPERM, errno.EACCES, errno.EAGAIN, errno.EMFILE):
        assert of_connection(OSError(number, os.strerror(number))) is None


def test_signals_are_named_with_their_cause():
    assert of_signal(signal.SIGKILL).startswith("SIGKILL, probably for lack of memory; ")
    assert of_signal(signal.SIGBUS).startswith("SIGBUS: /dev/shm")
    assert of_signal(signal.SIGSEGV) == "SIGSEGV; see the log"


def test_a_full_disk_is_named_by_the_store(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot use .*x: the disk is full; .*free some space"):
        FileStore(tmp_path).put("x", b"data")
    assert list(tmp_path.iterdir()) == []


def test_very_long_values_do_not_make_a_message_endless():
    error = ConfigError(f"cannot read {'x' * 10**6} of file.json", "a short name", "rename it")
    assert len(str(error)) < 4200
    assert str(error).startswith("cannot read xxx")
    assert str(error).endswith("of file.json; expected a short name; rename it")


# Beginnings, and what is repeated after them, for each shape of a secret.
REPEATS = [
    "://:", "://", ":", "://a:", ".", "-", "/a.", "a:", "?key", "?keykey=", "&token-", "-eyJ", "eyJabcdefgh-", "sk-",
    "hf_", "-sk-ant-a-", "dapi", "xoxa-", "Bearer ", "password=", "a:b@", "a:b@1.", "/dev/shm ", "invalid path: ",
]  # fmt: skip


@pytest.mark.parametrize("beginning", ["", "://", "?", "eyJ", "sk-ant-"])
def test_hiding_secrets_takes_a_time_proportional_to_the_length_of_any_text(beginning):
    """With a quadratic pattern, four times the length takes sixteen times as long, over a second."""

    def seconds(repeats, length):
        texts = [beginning + repeat * (length // len(repeat)) for repeat in repeats]
        start = time.process_time()
        for text in texts:
            redacted(text)
            meaning(OSError(text))
        return time.process_time() - start

    for repeat in REPEATS:
        short = min(seconds([repeat], 8_000) for _ in range(2))
        assert min(seconds([repeat], 32_000) for _ in range(2)) < 10 * short + 0.05, repeat


def test_a_very_long_text_of_an_error_is_shortened_before_it_is_searched(monkeypatch):
    seen = []
    monkeypatch.setattr(errors, "plain", lambda text: seen.append(len(text)) or text)
    DataError("x" * 10_000_000)
    described(ValueError("x" * 10_000_000))
    assert max(seen) < 20_000


def test_a_secret_at_the_cut_of_a_long_text_is_hidden():
    for length in range(1900, 2100, 7):
        text = f"{'x ' * (length // 2)}http://u:{HUSH}@h/{'y ' * 9000}"
        assert HUSH not in str(DataError(text))


def test_a_number_of_things_in_words():
    assert [number_of(count, "image") for count in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [number_of(count, "unseen class") for count in (1, 3)] == ["1 unseen class", "3 unseen classes"]


def test_a_figure_has_three_digits_and_no_exponent():
    for value in np.random.default_rng(0).uniform(1, 10, 200) * np.logspace(-7, 1, 200):
        assert three_digits(value) == np.format_float_positional(value, 3, unique=False, fractional=False, trim="-")
    shown = [three_digits(value) for value in (0, 99.97, 155.4, 1234.5, 8.5e9)]
    assert shown == ["0", "100", "155", "1234", "8500000000"]


def instead(first, then, hidden):
    """`then`, raised while `first` was handled."""
    try:
        try:
            raise first
        except type(first):
            if hidden:
                raise then from None
            raise then  # noqa: B904
    except type(then) as error:
        return error


def test_what_a_library_tried_before_is_not_blamed():
    refused = PermissionError(errno.EACCES, "Permission denied", "/etc/x")
    full = OSError(errno.ENOSPC, "No space left on device")
    assert meaning(refused) is not None
    assert meaning(instead(refused, KeyError("a"), hidden=False)) is None
    assert meaning(instead(full, RuntimeError("write failed"), hidden=False)) == meaning(full)
    assert meaning(instead(full, ValueError("bad header"), hidden=True)) is None
