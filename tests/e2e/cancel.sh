#!/usr/bin/env bash
# A run that trains is cancelled, and `submit --wait` says so with its exit code.
. "$(dirname "$0")/environment.sh"
connect

training_pod() { # of the run with this id
    kubectl -n "$NAMESPACE" get pods -l "pipeline/runid=$1" --field-selector=status.phase=Running \
        -o jsonpath='{range .items[*]}{.metadata.annotations.workflows\.argoproj\.io/node-name}{"\n"}{end}' |
        grep -F '.train(0).executor(0)'
}

cliptea submit --pipeline "$OUT/pipeline.yaml" --preset smoke --set train.iterations=100000 --wait >"$OUT/cancel.txt" &
waiting=$!
run=$(until_printed submitted "$OUT/cancel.txt")
until_printed training_pod "${run##*/}"
cliptea cancel "$run"
code=0
wait "$waiting" || code=$?
[ "$code" = 3 ] || fail "cliptea submit --wait exited with $code; expected 3, for a cancelled run"
