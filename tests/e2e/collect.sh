#!/usr/bin/env bash
# Write to dist/e2e what may explain a failure: objects, events and logs. It reads no secrets.
. "$(dirname "$0")/environment.sh"

kubectl get nodes,pods --all-namespaces -o wide >"$OUT/pods.txt" || true
kubectl -n "$NAMESPACE" get events --sort-by=.lastTimestamp >"$OUT/events.txt" || true
kubectl -n "$NAMESPACE" get trainjobs,jobsets,workflows -o yaml >"$OUT/jobs.yaml" || true
for pod in $(kubectl -n "$NAMESPACE" get pods -o name); do
    kubectl -n "$NAMESPACE" logs "$pod" --all-containers --prefix >"$OUT/${pod##*/}.log" 2>&1 || true
done
