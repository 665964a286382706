#!/usr/bin/env bash
# A pod of a TrainJob on two nodes is evicted. The step makes the TrainJob again, which resumes from its checkpoint.
. "$(dirname "$0")/environment.sh"
connect

progress() { # of the training pod, which tells it every 30 seconds; the training has to be longer than that
    kubectl -n "$NAMESPACE" logs "$1" -c node | grep -E 'training [1-9][0-9]+/'
}

sed 's/^launcher: torchrun.*/launcher: trainjob\ntrain_job: {nodes: 2}/' k8s/overlays/local/placement.yaml >"$OUT/trainjob.yaml"
cliptea doctor --placement "$OUT/trainjob.yaml"
cliptea compile --placement "$OUT/trainjob.yaml" --output "$OUT/trainjob-pipeline.yaml"
cliptea submit --pipeline "$OUT/trainjob-pipeline.yaml" --preset smoke --set 'variants=[backbones/demo_fpn]' \
    --set train.iterations=4000 --set train.checkpoint_every=100 --wait >"$OUT/evict.txt" &
waiting=$!
run=$(until_printed submitted "$OUT/evict.txt")
job=$(until_printed kubectl -n "$NAMESPACE" get trainjobs -l "cliptea/run=${run##*/}" -o name)
pods="jobset.sigs.k8s.io/jobset-name=${job##*/},batch.kubernetes.io/job-completion-index=0"
pod=$(until_printed kubectl -n "$NAMESPACE" get pods -l "$pods" -o name)
until_printed progress "$pod"
kubectl create --raw "/api/v1/namespaces/$NAMESPACE/pods/${pod##*/}/eviction" -f - <<EOF
{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "${pod##*/}", "namespace": "$NAMESPACE"}}
EOF
wait "$waiting"
kubectl -n "$NAMESPACE" logs -l "pipeline/runid=${run##*/}" -c main --tail=-1 | grep 'resuming from the checkpoint'
