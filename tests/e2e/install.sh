#!/usr/bin/env bash
# Install the overlay `local` with new passwords, as docs/cluster.md explains it.
. "$(dirname "$0")/environment.sh"

secret() { # name, then KEY=VALUE
    local name=$1
    shift
    kubectl -n "$NAMESPACE" get secret "$name" >/dev/null 2>&1 && return # from an earlier call
    printf '%s\n' "$@" | kubectl -n "$NAMESPACE" create secret generic "$name" --from-env-file=/dev/stdin
}

kubectl apply -f k8s/overlays/local/namespace.yaml
secret cliptea-s3 CLIPTEA_S3_ENDPOINT=http://cliptea-s3:8333 AWS_ACCESS_KEY_ID=cliptea \
    AWS_SECRET_ACCESS_KEY="$(openssl rand -hex 24)"
secret cliptea-mlflow MLFLOW_TRACKING_URI=http://cliptea-mlflow:5000
secret cliptea-postgres POSTGRES_PASSWORD="$(openssl rand -hex 24)"
kubectl apply -k k8s/overlays/local
kubectl -n "$NAMESPACE" wait --for=condition=complete job/cliptea-bucket --timeout=10m
kubectl -n "$NAMESPACE" rollout status deployment/cliptea-mlflow --timeout=10m
kubectl auth can-i create trainjobs.trainer.kubeflow.org -n "$NAMESPACE" \
    --as="system:serviceaccount:$NAMESPACE:pipeline-runner"
