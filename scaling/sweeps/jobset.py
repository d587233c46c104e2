"""Launcher `jobset`: Kubernetes JobSets for TPU slices on GKE, one or several slices a cell.

    python -m scaling.sweep --sweep=FILE --workdir=DIR --launcher=jobset --workers=4 \\
        --resources=tpu=v6e,topology=4x4,slices=2,image=REPO/scaling:TAG,claim=sweeps

writes DIR/jobset.yaml with a JobSet for each worker, which `--submit` applies with the user's
`kubectl`. The image holds this package; `claim` is a PersistentVolumeClaim that all pods may write to
(Filestore, or a bucket), in which the sweep lies under its name: copy DIR there first.

A worker walks its part of the cells (`sequence`). A pod that is preempted, or saved on SIGTERM and
left with 75, restarts the JobSet without counting; any other failure counts, up to `max_restarts`.
Fields: github.com/kubernetes-sigs/jobset, api/jobset/v1alpha2/jobset_types.go.
"""

import math
import re
from typing import Any

from scaling.configs import ConfigError
from scaling.configs.errors import suggest
from scaling.sweeps import handover, resources
from scaling.sweeps.skypilot import EXIT_PREEMPTED
from scaling.sweeps.sweep_dir import SweepDir

# GKE's name of each generation (cloud.google.com/gke-tpu-accelerator). Hosts of slices that span
# several have 4 chips each.
ACCELERATORS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "v7x": "tpu7x",
}
KEYS = {
    "tpu": "generation: " + ", ".join(ACCELERATORS),
    "topology": "of a slice, such as 2x4 or 4x4x4",
    "image": "container image with this package installed",
    "claim": "PersistentVolumeClaim that holds the sweep",
    "slices": "slices of a cell; default 1",
    "chips_per_host": "default 4, or all chips of a smaller slice",
    "spot": "use machines that may be taken away: true or false (default)",
    "namespace": "default: default",
    "queue": "Kueue's local queue, if there is one",
    "max_restarts": "restarts after failures; default 3",
}
REQUIRED = ("tpu", "topology", "image", "claim")
MOUNT = "/sweeps"
GRACE_SECONDS = 120  # to save after SIGTERM


def parse(text: str) -> dict[str, Any]:
    """What `--resources` asks for.

    Raises:
      ConfigError: an unknown or missing key, a generation or topology that does not exist.
    """
    asked = resources.parse(text, KEYS)
    for key in REQUIRED:
        if key not in asked:
            raise ConfigError("--resources", f"{key} is required", f"write {key}=..., {KEYS[key]}")
    if asked["tpu"] not in ACCELERATORS:
        raise ConfigError(
            "--resources", f"tpu={asked['tpu']}", suggest(str(asked["tpu"]), list(ACCELERATORS))
        )
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", str(asked["topology"])):
        raise ConfigError("--resources", f"topology={asked['topology']}", "write 4x4 or 4x4x4")
    chips, each = _chips(asked)
    if chips % each:
        raise ConfigError(
            "--resources", f"{chips} chips do not divide over hosts of {each}",
            "give chips_per_host a divisor",
        )  # fmt: skip
    return asked


def _chips(asked: dict[str, Any]) -> tuple[int, int]:
    """(chips of a slice, chips of a host)."""
    chips = math.prod(int(size) for size in str(asked["topology"]).split("x"))
    return chips, int(asked.get("chips_per_host", min(chips, 4)))


def manifests(sweep: SweepDir, asked: dict[str, Any], workers: int) -> list[dict[str, Any]]:
    """A JobSet for each worker."""
    return [_jobset(sweep, asked, part, workers) for part in range(workers)]


def _jobset(sweep: SweepDir, asked: dict[str, Any], part: int, parts: int) -> dict[str, Any]:
    name = re.sub(r"[^a-z0-9]+", "-", sweep.name.lower()).strip("-")[:30] or "sweep"
    metadata: dict[str, Any] = {
        "name": f"{name}-{part}",
        "namespace": str(asked.get("namespace", "default")),
        # A slice is a node pool; no two jobs share one.
        "annotations": {
            "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
        },
    }
    if "queue" in asked:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": str(asked["queue"])}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {
                "maxRestarts": int(asked.get("max_restarts", 3)),
                "rules": [
                    {
                        "name": "preempted",
                        "action": "RestartJobSetAndIgnoreMaxRestarts",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [
                {
                    "name": "slice",
                    "replicas": int(asked.get("slices", 1)),
                    "template": {"spec": _job(sweep, asked, part, parts)},
                }
            ],
        },
    }


def _job(sweep: SweepDir, asked: dict[str, Any], part: int, parts: int) -> dict[str, Any]:
    """One slice: a pod on each of its hosts."""
    chips, each = _chips(asked)
    return {
        "parallelism": chips // each,
        "completions": chips // each,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": "scaling", "operator": "In", "values": [EXIT_PREEMPTED],
                    },
                },
                {
                    "action": "FailJob",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
            ]
        },
        "template": {"spec": _pod(sweep, asked, part, parts, each)},
    }  # fmt: skip


def _pod(
    sweep: SweepDir, asked: dict[str, Any], part: int, parts: int, each: int
) -> dict[str, Any]:
    selector = {
        "cloud.google.com/gke-tpu-accelerator": ACCELERATORS[str(asked["tpu"])],
        "cloud.google.com/gke-tpu-topology": str(asked["topology"]),
    }
    if asked.get("spot"):
        selector["cloud.google.com/gke-spot"] = "true"
    command = [
        *("python", "-m", "scaling.sweeps.sequence"),
        *(f"--sweep_dir={MOUNT}/{sweep.path.name}", f"--part={part}/{parts}"),
    ]
    tpus = {"google.com/tpu": each}
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "nodeSelector": selector,
        "containers": [
            {
                "name": "scaling",
                "image": str(asked["image"]),
                "command": command,
                # 8471: between the hosts of a slice; 8476: JAX's coordinator; 8080: between slices.
                "ports": [{"containerPort": port} for port in (8471, 8476, 8080)],
                "env": [{"name": "JAX_PLATFORMS", "value": "tpu,cpu"}],
                "resources": {"requests": tpus, "limits": tpus},
                "volumeMounts": [{"name": "sweeps", "mountPath": MOUNT}],
            }
        ],
        "volumes": [
            {"name": "sweeps", "persistentVolumeClaim": {"claimName": str(asked["claim"])}}
        ],
    }


def launch(
    sweep: SweepDir,
    asked: dict[str, Any],
    workers: int | None,
    tries: int,
    group: int | None,
    submit: bool,
) -> int:
    """Writes the manifests and a script that applies them; runs it if `submit`.

    Raises:
      LaunchError: `kubectl` or PyYAML is not installed.
    """
    del tries, group
    path = sweep.path / "jobset.yaml"
    found = manifests(sweep, asked, min(workers or 1, len(sweep.ids)))
    apply = f'#!/bin/sh\nexec kubectl apply -f "$(dirname "$0")/{path.name}"\n'
    start = handover.write(path, found, apply)
    if not submit:
        print(f"copy {sweep.path} to {MOUNT}/{sweep.path.name} of the claim, then run {start}")
        return 0
    return handover.run("kubectl", start)
