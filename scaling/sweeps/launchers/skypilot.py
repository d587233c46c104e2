"""Launcher `skypilot`: one task file for TPU VMs (spot, with recovery), GPUs or GKE.

    python -m scaling.sweep --sweep=FILE --workdir=DIR --launcher=skypilot --workers=4 \\
        --resources=accelerators=tpu-v6e-8,infra=gcp,spot=true

writes DIR/skypilot.yaml and DIR/skypilot.sh, which `--submit` runs: it hands one managed job for each
worker to the user's own `sky` (SkyPilot lives in an environment of its own; see its documentation).
DIR goes into a bucket that the jobs mount; a job that loses its machine is started again elsewhere
and goes on from the checkpoints there. On GKE it is infra=kubernetes,accelerators=tpu-v6e-slice:4.
"""

import json
import re
import string

from scaling.sweeps.launchers import Request, Resources, hand_over, parse_resources, slug
from scaling.sweeps.sweep_dir import SweepDir
from scaling.train.signals import EXIT_PREEMPTED

KEYS = {
    "accelerators": "such as tpu-v6e-8, tpu-v5litepod-16 or H100:1",
    "infra": "where: gcp, gcp/us-central1, kubernetes, ...",
    "spot": "use machines that may be taken away: true (default) or false",
    "runtime_version": "software of a TPU VM; the cloud's default otherwise",
    "bucket": "name of the bucket; by default made from the sweep's name",
    "store": "kind of the bucket: gcs (default), s3, r2, ...",
    "disk_size": "GB of each machine",
    "extra": "extra of this package to install: tpu or gpu; by default from the accelerator",
}
MOUNT = "/sweep"
TASK = string.Template("""\
name: $name
resources: $resources
workdir: .
envs: $envs
file_mounts:
  $mount: {name: $bucket, source: $source, store: $store, mode: MOUNT}
setup: pip install -q -e '.[$extra]' -c constraints.txt
run: python -m scaling.sweep --workdir=$mount --part=$$PART/$$PARTS
""")
SCRIPT = string.Template("""\
#!/bin/sh
# One managed job for each part of the sweep. Run it where the checkout is; needs `sky`.
set -e
here=$$(dirname "$$0")
for part in $$(seq 0 $last); do
  sky jobs launch --yes --detach-run --env PART="$$part" "$$here/skypilot.yaml"
done
echo 'sky jobs queue shows them'
""")


def parse(text: str) -> Resources:
    """What `--resources` asks for; raises ConfigError as `parse_resources`."""
    return parse_resources(text, KEYS, required=("accelerators",))


def task(sweep: SweepDir, asked: Resources, parts: int) -> str:
    """The task file, a `sky.Task` as YAML; each of `parts` jobs gets its part from the variable PART."""
    accelerators, name = str(asked["accelerators"]), slug(sweep.name, 40)
    resources: dict[str, object] = {
        "accelerators": accelerators,
        "use_spot": bool(asked.get("spot", True)),
        "job_recovery": {
            "strategy": "FAILOVER",
            "max_restarts_on_errors": 3,
            "recover_on_exit_codes": [EXIT_PREEMPTED],
        },
        **{key: asked[key] for key in ("infra", "disk_size") if key in asked},
    }
    if "runtime_version" in asked:
        resources["accelerator_args"] = {"runtime_version": asked["runtime_version"]}
    envs = {"PART": "0", "PARTS": str(parts)}
    chips = re.fullmatch(r"tpu-\S*-(\d+)(:1)?", accelerators)
    if chips and int(chips[1]) > 8:  # several hosts, which meet through the cloud's metadata
        envs["JAX_COORDINATOR_ADDRESS"] = "auto"
    return TASK.substitute(
        name=name,
        resources=json.dumps(resources),  # JSON is YAML
        envs=json.dumps(envs),
        mount=MOUNT,
        bucket=json.dumps(asked.get("bucket", f"scaling-{name}")),
        source=json.dumps(str(sweep.path)),
        store=json.dumps(asked.get("store", "gcs")),
        extra=asked.get("extra", "tpu" if accelerators.startswith("tpu") else "gpu"),
    )


def launch(sweep: SweepDir, request: Request) -> int:
    """Writes the task file and the script that launches a job for each part; runs it if asked to."""
    parts = request.parts(sweep)
    return hand_over(
        sweep.path / "skypilot.yaml",
        task(sweep, parse(request.resources), parts),
        SCRIPT.substitute(last=parts - 1),
        tool="sky",
        submit=request.submit,
        hint="start it with {script}, or say --submit",
    )
