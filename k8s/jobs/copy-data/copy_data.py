"""`copy_data.py FOLDER s3://BUCKET/FOLDER`: copy what is not there yet, by name and size; run again, it goes on."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cliptea.errors import ClipteaError
from cliptea.storage.minio_client import Limits, connect
from cliptea.storage.s3_errors import explained
from cliptea.storage.s3_store import S3Store, parse

THREADS = 16


def main(folder: Path, target: str) -> int:
    """Copy every file below `folder`; returns how many were copied."""
    bucket, prefix = parse(target)
    client = connect(Limits())
    there = {entry.key: entry.size for entry in S3Store(bucket, prefix).entries("")}

    def copy(file: Path) -> bool:
        key = file.relative_to(folder).as_posix()
        if there.get(key) == file.stat().st_size:
            return False
        with explained(f"{target}/{key}"):
            client.fput_object(bucket, f"{prefix}/{key}" if prefix else key, str(file))
        return True

    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and "lost+found" not in file.parts]
    with ThreadPoolExecutor(THREADS) as pool:
        copied = sum(pool.map(copy, files))
    print(f"{copied} files copied, {len(files) - copied} were there", flush=True)
    return copied


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2].rstrip("/"))
    except ClipteaError as error:
        sys.exit(f"error: {error}")
