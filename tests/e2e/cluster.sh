#!/usr/bin/env bash
# Make a cluster with kind that has the images of cliptea, Kubeflow Pipelines and Kubeflow Trainer. Build the images first.
. "$(dirname "$0")/environment.sh"
pipelines=2.17.0 trainer=v2.3.0 # as docs/cluster.md names them

version=$(cliptea --version)
version=${version#cliptea }
kind create cluster --name cliptea --wait 5m
kind load docker-image --name cliptea "cliptea:$version" "cliptea-mlflow:$version"

from=https://github.com/kubeflow/pipelines/manifests/kustomize
kubectl apply -k "$from/cluster-scoped-resources?ref=$pipelines&timeout=300s"
kubectl wait --for=condition=established crd --all --timeout=2m
kubectl apply -k "$from/env/platform-agnostic?ref=$pipelines&timeout=300s"
kubectl apply --server-side -k "https://github.com/kubeflow/trainer/manifests/overlays/manager?ref=$trainer&timeout=300s"
kubectl -n kubeflow-system wait --for=condition=available deployment --all --timeout=10m
kubectl -n kubeflow wait --for=condition=available deployment --all --timeout=15m
