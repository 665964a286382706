"""Tables in MLflow runs, in the format that MLflow's user interface shows and `load_table` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cliptea.tracking.mlflow_client import connect

__all__ = ["log_table"]

SHOWN = "mlflow.loggedArtifacts"  # the tag that lists a run's tables


def log_table(run_id: str, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Store rows as the table `name`. An existing table is replaced (MLflow's own `log_table` would append).

    Args:
        run_id: MLflow's id of the run.
        rows: the rows, which all have the same columns.
        name: name of the artifact, such as variants.json.
    """
    client = connect()
    columns = list(rows[0])
    client.log_dict(run_id, {"columns": columns, "data": [[row[column] for column in columns] for row in rows]}, name)
    listed = json.loads(client.get_run(run_id).data.tags.get(SHOWN, "[]"))
    entry = {"path": name, "type": "table"}
    if entry not in listed:
        client.set_tag(run_id, SHOWN, json.dumps([*listed, entry]))
