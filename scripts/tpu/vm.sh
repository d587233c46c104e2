#!/usr/bin/env bash
# Day one on a single TPU VM: make it, set it up, run a config there, fetch the run, delete it.
#
#   PROJECT=p ZONE=us-east5-b scripts/tpu/vm.sh create            # TYPE=v6e-8 by default, SPOT=1 for spot
#   scripts/tpu/vm.sh setup                                       # this checkout and its requirements
#   scripts/tpu/vm.sh run --config=experiments/quickstart.py      # anything that scaling.main takes
#   scripts/tpu/vm.sh fetch quickstart                            # runs/quickstart comes here
#   scripts/tpu/vm.sh delete
#
# Needs gcloud, logged in. The run goes on when the connection breaks; `run` with the same words again
# shows it, and goes on from its checkpoint where it was stopped. For pods (several hosts): pod.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
NAME="${NAME:-scaling}" ZONE="${ZONE:-us-east5-b}" TYPE="${TYPE:-v6e-8}"
VERSION="${VERSION:-v2-alpha-tpuv6e}"
gcloud_tpu() { gcloud ${PROJECT:+--project="$PROJECT"} compute tpus tpu-vm "$@" --zone="$ZONE"; }
on_vm() { gcloud_tpu ssh "$NAME" --command="$1"; }

usage() { sed -n '2,11p' "$0" | cut -c3-; exit 2; }

case "${1:-}" in
  create)
    gcloud_tpu create "$NAME" --accelerator-type="$TYPE" --version="$VERSION" ${SPOT:+--spot}
    ;;
  setup)
    git archive --format=tar.gz -o /tmp/scaling.tar.gz HEAD
    gcloud_tpu scp /tmp/scaling.tar.gz "$NAME":scaling.tar.gz
    on_vm 'set -e; mkdir -p scaling; tar -xzf scaling.tar.gz -C scaling; cd scaling
      python3 -m venv .venv; .venv/bin/pip install -q -e ".[tpu]" -c constraints.txt
      .venv/bin/python -m scaling.doctor'
    ;;
  run)
    shift
    [ $# -gt 0 ] || usage
    words=$(printf '%q ' "$@" --config.platform=tpu)
    # tmux outlives the connection. A run that is there already is only shown.
    on_vm "cd scaling; tmux has-session -t run 2>/dev/null || tmux new-session -d -s run \
      '.venv/bin/python -m scaling.main $words 2>&1 | tee -a run.log'
      tail -n 50 -F --pid=\$(tmux list-panes -t run -F '#{pane_pid}') run.log"
    ;;
  fetch)
    [ $# -eq 2 ] || usage
    mkdir -p runs
    gcloud_tpu scp --recurse "$NAME":scaling/runs/"$2" runs/
    ;;
  delete)
    gcloud_tpu delete "$NAME" --quiet
    ;;
  *) usage ;;
esac
