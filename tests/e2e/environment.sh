# What the scripts of this folder share. They source it; see README.md.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PATH=$PATH:$PWD/.venv/bin # where `make install` puts cliptea and kubectl, unless they are on the path already

export NAMESPACE=kubeflow # of the overlay `local`
export OUT=${OUT:-$PWD/dist/e2e} # compiled pipelines, and what collect.sh writes
mkdir -p "$OUT"

fail() {
    echo "error: $1" >&2
    exit 1
}

# Repeat a command every five seconds until it prints something, and print that. Give up after ten minutes.
until_printed() {
    local printed
    for _ in {1..120}; do
        if printed=$("$@" 2>/dev/null) && [ -n "$printed" ]; then
            echo "$printed"
            return
        fi
        sleep 5
    done
    fail "for ten minutes, this has failed or printed nothing: $*"
}

# Forward a port of a service, again and again, because kubectl ends when a connection fails.
forward() { # service, ports
    while true; do
        kubectl -n "$NAMESPACE" port-forward "svc/$1" "$2" >>"$OUT/port-forward-$1.log" 2>&1 || true
        sleep 1
    done
}

# End what runs in the background: jobs with their children if they have a process group of their own.
end_jobs() {
    local job
    for job in $(jobs -p); do
        kill -- "-$job" 2>/dev/null || kill "$job" 2>/dev/null || true
    done
}

# Make Pipelines and MLflow available on this machine until the script ends.
connect() {
    set -m # process groups
    forward ml-pipeline-ui 8080:80 &
    forward cliptea-mlflow 5000 &
    set +m
    trap end_jobs EXIT
    export KFP_ENDPOINT=http://localhost:8080 KFP_NAMESPACE=$NAMESPACE MLFLOW_TRACKING_URI=http://localhost:5000
    until_printed curl -fsS "$KFP_ENDPOINT/apis/v2beta1/healthz" >/dev/null
    until_printed curl -fsS "$MLFLOW_TRACKING_URI/health" >/dev/null
}

# The address of the run that `cliptea submit` has printed to a file.
submitted() {
    sed -n 's/^run //p' "$1"
}
