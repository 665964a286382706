"""README.md beside a results.json, made from it so that no figure in the page is written by hand."""

from __future__ import annotations

from typing import Any

from cliptea.messages import three_digits

__all__ = ["render"]

INTRODUCTION = """<!-- Made by `python -m benchmarks` from results.json beside it. Edit page.py or the rows. -->

# Benchmarks

    make bench                                    # all rows except the long ones; about 20 minutes on two cores
    python -m benchmarks --only reading           # a single row; repeat the option for several, `--help` lists them
    python -m benchmarks --quick                  # only checks that every row runs; the figures are meaningless
    python -m benchmarks --long                   # also hIoU against an online teacher, and every backbone
    cliptea plan --preset voc12 --set data.root=VOCdevkit --benchmark benchmarks/results.json    # rates of a GPU

Each row is measured by a file in `benchmarks/rows/`. The two sides of a row run alternately, and the ratio is the
median over the rounds. If the goal is *at least*, or the row is only reported, the ratio says how many times as fast
the first side is, unless the name of the row says what it is. If the goal is *at most*, the ratio is the first side
divided by the second, so smaller is better. A name such as `A : B` names the first side and the second. *Load before*
is the system's load average of the last minute before the row.

All measurements go to `benchmarks/results.json` or the file in `--output`, and a page like this one is made beside it;
`cliptea plan` reads the file's `images_per_second`, if it is from a machine with a GPU. With `--only`, the other rows
of the file are kept if they come from the same machine. With a GPU, the rows use larger batches in bfloat16 and all
backbones at 512x512, and record the memory. The table has the rows that were measured on its machine.

## Results of one machine
"""
NO_GPU = """
**This machine has no GPU.** Speed and memory with CUDA, bfloat16 on a GPU, NCCL, and backbones other than
SegFormer-B0 are not measured. [h200](h200/README.md) has a few rows of a machine with a GPU.
"""


def render(results: dict[str, Any]) -> str:
    """The page, in Markdown, of what `python -m benchmarks` wrote."""
    machine = results["machine"]
    text = (
        f"\n{machine['cores']} cores of {machine['processor']} with {machine['memory_gib']:.0f} GiB of memory and "
        f"{machine['gpu'] or 'no GPU'}; Python {machine['python']}, torch {machine['torch']} with "
        f"{machine['torch_threads']} threads.\n"
    )
    lines = ["| what | first | second | ratio | goal | | load before |", "|---|---|---|---|---|---|---|"]
    notes = []
    for row in results["rows"]:
        verdict = {None: "", True: "met", False: "**missed**"}[row["met"]]
        ratio = three_digits(row["ratio"])
        lines.append(
            f"| {row['name']} | {row['first']} | {row['second']} | {ratio} | {row['goal_text']} | {verdict} "
            f"| {row['load']:.1f} |"
        )
        if row["note"] and f"- {row['note']}" not in notes:
            notes.append(f"- {row['note']}")
    parts = [INTRODUCTION, text, "" if machine["gpu"] else NO_GPU, "\n", "\n".join(lines), "\n"]
    if notes:
        parts += ["\n## Notes\n\n", "\n".join(notes), "\n"]
    return "".join(parts)
