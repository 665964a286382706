"""Ends all processes of a run as a power cut does, just before one of them changes a file for the Nth time.

Variables: CLIPTEA_TEST_FOLDER is the folder whose changes count, CLIPTEA_TEST_COUNT a file outside of it whose size is
the count of all processes, and CLIPTEA_TEST_LAST is N. Python imports a module of this name when it starts.
"""

import os
import signal
import sys

FOLDER, COUNT, LAST = (os.environ[f"CLIPTEA_TEST_{name}"] for name in ("FOLDER", "COUNT", "LAST"))
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "sqlite3.connect"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
counter = os.open(COUNT, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def heed(event, arguments):
    if event != "open" and event not in CHANGES:
        return
    if event == "open" and not arguments[2] & WRITING:
        return
    if not any(FOLDER in os.fsdecode(path) for path in arguments[:2] if isinstance(path, (str, bytes, os.PathLike))):
        return
    os.write(counter, b"x")
    if os.fstat(counter).st_size >= int(LAST):
        end()


def end():
    """Kill the processes with this run's variables, this one last."""
    mark = f"CLIPTEA_TEST_COUNT={COUNT}".encode()
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/environ", "rb") as environment:
                ours = mark in environment.read().split(b"\0")
            if ours and int(process) != os.getpid():
                os.kill(int(process), signal.SIGKILL)
        except OSError:  # it has just ended
            pass
    os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(heed)
