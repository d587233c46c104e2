#!/usr/bin/env bash
# A TPU pod slice: the same command on every host; they find one another by themselves.
#
#   PROJECT=p ZONE=us-east5-b TYPE=v6e-64 scripts/tpu/pod.sh create   # a queued resource; SPOT=1 for spot
#   scripts/tpu/pod.sh status                                         # until it says ACTIVE
#   scripts/tpu/pod.sh setup                                          # this checkout, on all hosts
#   scripts/tpu/pod.sh run --config=experiments/llama.py:1b --workdir=/shared/llama --config.mesh.fsdp=64
#   scripts/tpu/pod.sh sweep /shared/NAME                             # the cells of a sweep, one by one
#   scripts/tpu/pod.sh stop                                           # all hosts save and end (75)
#   scripts/tpu/pod.sh delete
#
# --workdir must be a directory that all hosts share (Filestore, or a bucket mounted by gcsfuse). When
# a spot slice is taken away: delete, create, setup, and the same `run`; it goes on from its checkpoint.
set -euo pipefail
cd "$(dirname "$0")/../.."
NAME="${NAME:-scaling-pod}" ZONE="${ZONE:-us-east5-b}" TYPE="${TYPE:-v6e-64}"
VERSION="${VERSION:-v2-alpha-tpuv6e}"
JOIN=JAX_COORDINATOR_ADDRESS=auto  # hosts of a pod of TPU VMs know one another through its metadata
gcloud_tpus() { gcloud ${PROJECT:+--project="$PROJECT"} compute tpus "$@" --zone="$ZONE"; }
on_all() { gcloud_tpus tpu-vm ssh "$NAME" --worker=all --command="$1"; }

usage() { sed -n '2,13p' "$0" | cut -c3-; exit 2; }

case "${1:-}" in
  create)
    gcloud_tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" \
      --runtime-version="$VERSION" ${SPOT:+--spot}
    ;;
  status)
    gcloud_tpus queued-resources describe "$NAME" --format='value(state.state)'
    ;;
  setup)
    git archive --format=tar.gz -o /tmp/scaling.tar.gz HEAD
    gcloud_tpus tpu-vm scp /tmp/scaling.tar.gz "$NAME":scaling.tar.gz --worker=all
    on_all 'set -e; mkdir -p scaling; tar -xzf scaling.tar.gz -C scaling; cd scaling
      python3 -m venv .venv; .venv/bin/pip install -q -e ".[tpu]" -c constraints.txt'
    ;;
  run)
    shift
    [ $# -gt 0 ] || usage
    words=$(printf '%q ' "$@" --config.platform=tpu)
    on_all "cd scaling && echo \$\$ > run.pid && exec env $JOIN .venv/bin/python -m scaling.main $words"
    ;;
  sweep)
    [ $# -ge 2 ] || usage
    part="${3:-0/1}"
    on_all "cd scaling && echo \$\$ > run.pid && exec env $JOIN .venv/bin/python \
      -m scaling.sweep --workdir=$(printf '%q' "$2") --part=$part"
    ;;
  stop)
    on_all 'kill -TERM "$(cat scaling/run.pid)"'
    ;;
  delete)
    gcloud_tpus queued-resources delete "$NAME" --force --quiet
    ;;
  *) usage ;;
esac
