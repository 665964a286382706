"""Ten million views, 2,000 students and 1,000 pods: planned, compiled or refused, with time and memory.

Each part runs in a process of its own, whose peak memory is told. Nothing is trained.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.measure import Bench, Row

PLAN = """
from cliptea.plan import make_plan
from cliptea.settings import load
config = load("coco_stuff164k", ["teacher.views=85", "teacher.weights=ViT-B-16.pt", "data.root=s3://data/coco"])
views = make_plan(config, {}).views
assert views > 10_000_000
told = f"{views:,} views"
"""
VARIANTS = """
from cliptea.run import expand
from cliptea.settings import load
students = expand(load("demo", ["seeds=400", "variants=[table3]"]))
assert len(students) == 2000
told = f"{sum(len(s.model_dump_json()) for s in students) / 2**20:.1f} MiB of JSON"
"""
REFUSED = """
from cliptea.errors import ConfigError
from cliptea.run import expand
from cliptea.settings import load
from cliptea_pipeline.compile import pipeline_file
from cliptea_pipeline.fit import check_fit, read_compiled
config = load("demo", ["seeds=400", "variants=[table3]"])
try:
    check_fit(config, read_compiled(pipeline_file()))
except ConfigError as error:
    told = error.what
"""
PODS = """
from pathlib import Path
from cliptea_pipeline.compile import compile_pipeline
from cliptea_pipeline.placement import Placement
parallel = Placement(image="host/cliptea:1", token_parts=1000, students=1000, launcher="trainjob")
parallel.train_job.nodes = 1000
size = compile_pipeline(parallel, Path(OUTPUT)).stat().st_size
told = f"{size / 1024:.0f} KiB of YAML"
"""
# name, script, and the goals in seconds and MiB, which are our choice
CASES = (
    ("plan of ten million views", PLAN, 20, 1500),
    ("list of 2,000 students", VARIANTS, 10, 300),
    ("2,000 students in one run, refused", REFUSED, 10, 300),
    ("compiling 1,000 token pods and 1,000 training pods", PODS, 10, 300),
)
END = """
import json, re
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(json.dumps({"seconds": time.perf_counter() - start, "mib": peak, "told": told}))
"""


def measure(bench: Bench) -> Iterator[Row]:
    """Two rows a case, each against its goal. A quick run leaves the plan out, because it imports torch."""
    for name, script, seconds, mib in CASES[1:2] if bench.quick else CASES:
        found = [_run(script, bench.folder / "many.yaml") for _ in range(1 if bench.quick else 3)]
        took, peak = median(one["seconds"] for one in found), median(one["mib"] for one in found)
        yield Row(f"{name}: time", f"{took:.1f} s", f"the goal, {seconds} s", took / seconds, 1, at_most=True)
        note = f"{name[0].upper()}{name[1:]}: {found[0]['told']}."
        yield Row(f"{name}: memory", f"{peak:.0f} MiB", f"the goal, {mib} MiB", peak / mib, 1, at_most=True, note=note)


def _run(script: str, output: Path) -> dict:
    text = f"import time\nstart = time.perf_counter()\nOUTPUT = {str(output)!r}\n{script}{END}"
    return json.loads(subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True).stdout)
