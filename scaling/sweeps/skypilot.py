"""Launcher `skypilot`: one task file for TPU VMs (spot, with recovery), GPUs or GKE.

    python -m scaling.sweep --sweep=FILE --workdir=DIR --launcher=skypilot --workers=4 \\
        --resources=accelerators=tpu-v6e-8,infra=gcp,spot=true

writes DIR/skypilot.yaml and DIR/skypilot.sh, which `--submit` runs: it hands one managed job for each
worker to the user's own `sky` (SkyPilot lives in an environment of its own; see its documentation).
DIR goes into a bucket that the jobs mount; a job that loses its machine is started again elsewhere
and goes on from the checkpoints there. On GKE it is infra=kubernetes,accelerators=tpu-v6e-slice:4.
"""

import os
import re
from typing import Any

from scaling.configs import ConfigError
from scaling.sweeps import handover, resources
from scaling.sweeps.sweep_dir import SweepDir

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
EXIT_PREEMPTED = 75
MAX_FAILURES = 3


def parse(text: str) -> dict[str, Any]:
    """What `--resources` asks for.

    Raises:
      ConfigError: an unknown key, or no accelerators.
    """
    asked = resources.parse(text, KEYS)
    if "accelerators" not in asked:
        raise ConfigError("--resources", "accelerators is required", "write accelerators=tpu-v6e-8")
    return asked


def task(sweep: SweepDir, asked: dict[str, Any], workers: int) -> dict[str, Any]:
    """The content of the task file, a `sky.Task` as YAML.

    Args:
      sweep: the sweep.
      asked: of `parse`.
      workers: how many jobs share the cells; each is told its part by the variable PART.
    """
    wanted: dict[str, Any] = {
        "accelerators": str(asked["accelerators"]),
        "use_spot": bool(asked.get("spot", True)),
        "job_recovery": {
            "strategy": "FAILOVER",
            "max_restarts_on_errors": MAX_FAILURES,
            "recover_on_exit_codes": [EXIT_PREEMPTED],
        },
    }
    for key in ("infra", "disk_size"):
        if key in asked:
            wanted[key] = asked[key]
    if "runtime_version" in asked:
        wanted["accelerator_args"] = {"runtime_version": asked["runtime_version"]}
    name = _name(sweep.name)
    tpu = str(asked["accelerators"]).startswith("tpu")
    extra = asked.get("extra", "tpu" if tpu else "gpu")
    return {
        "name": name,
        "resources": wanted,
        "workdir": ".",
        "envs": {"PART": "0", "PARTS": str(workers)} | _join(str(asked["accelerators"])),
        "file_mounts": {
            MOUNT: {
                "name": str(asked.get("bucket", f"scaling-{name}")),
                "source": str(sweep.path),
                "store": str(asked.get("store", "gcs")),
                "mode": "MOUNT",
            }
        },
        "setup": f"pip install -q -e '.[{extra}]' -c constraints.txt",
        "run": f"python -m scaling.sweeps.sequence --sweep_dir={MOUNT} --part=$PART/$PARTS",
    }


def _join(accelerators: str) -> dict[str, str]:
    """How the hosts of a slice find one another: those of TPU VMs through the cloud's metadata."""
    size = re.fullmatch(r"tpu-\S*-(\d+)(:1)?", accelerators)
    several = size is not None and int(size[1]) > 8
    return {"JAX_COORDINATOR_ADDRESS": "auto"} if several else {}


def script(workers: int) -> str:
    """The shell script that launches one managed job for each part; run from the checkout."""
    return (
        "#!/bin/sh\n"
        "# One managed job for each part of the sweep. Run it where the checkout is; needs `sky`.\n"
        "set -e\n"
        'here=$(dirname "$0")\n'
        f"for part in $(seq 0 {workers - 1}); do\n"
        '  sky jobs launch --yes --detach-run --env PART="$part" "$here/skypilot.yaml"\n'
        "done\n"
        "echo 'sky jobs queue shows them'\n"
    )


def launch(
    sweep: SweepDir,
    asked: dict[str, Any],
    workers: int | None,
    tries: int,
    group: int | None,
    submit: bool,
) -> int:
    """Writes the task file and the script; runs it if `submit`. Returns the exit code.

    Raises:
      LaunchError: `sky` or PyYAML is not installed.
    """
    del tries, group
    count = min(workers or 1, len(sweep.ids))
    path = sweep.path / "skypilot.yaml"
    start = handover.write(path, [task(sweep, asked, count)], script(count))
    if not submit:
        print(f"start it with {os.path.relpath(start)}, or say --submit")
        return 0
    return handover.run("sky", start)


def _name(text: str) -> str:
    """A name that clouds accept: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "sweep"
