#!/usr/bin/env bash
# The cluster is ready, and a whole run of the preset `smoke` succeeds. The other scripts submit what this one compiles.
. "$(dirname "$0")/environment.sh"
connect

cliptea doctor --placement k8s/overlays/local/placement.yaml
cliptea compile --placement k8s/overlays/local/placement.yaml --output "$OUT/pipeline.yaml"
cliptea submit --pipeline "$OUT/pipeline.yaml" --preset smoke --wait
