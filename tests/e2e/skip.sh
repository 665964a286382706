#!/usr/bin/env bash
# A scheduled run is skipped, because smoke.sh has finished one with the same data, settings, weights and versions of steps.
. "$(dirname "$0")/environment.sh"
connect

ended_run() { # of the schedule with this id
    curl -fsS "$KFP_ENDPOINT/apis/v2beta1/runs?page_size=100&sort_by=created_at%20desc" |
        python3 tests/e2e/answers.py ended-run "$1"
}

cliptea schedule --pipeline "$OUT/pipeline.yaml" --preset smoke --name e2e --cron '0 * * * * *'
schedule=$(cliptea schedule --list --json | python3 tests/e2e/answers.py schedule e2e)
run=$(until_printed ended_run "$schedule")
cliptea schedule --delete e2e
curl -fsS "$KFP_ENDPOINT/apis/v2beta1/runs/$run" | python3 tests/e2e/answers.py skipped
