"""Launcher `jobset`: Kubernetes JobSets for TPU slices on GKE, one or several slices for each cell.

    python -m scaling.sweep --sweep=FILE --workdir=DIR --launcher=jobset --workers=4 \\
        --resources=tpu=v6e,topology=4x4,slices=2,image=REPO/scaling:TAG,claim=sweeps

writes DIR/jobset.yaml with a JobSet for each worker, which `--submit` applies with the user's
`kubectl`. The image holds this package; `claim` is a PersistentVolumeClaim that all pods may write to
(Filestore, or a bucket), in which the sweep lies under its name: copy DIR there first.

A worker walks its part of the cells. A pod that is preempted, or saved on SIGTERM and left with 75,
restarts the JobSet without counting; any other failure counts, up to `max_restarts`.
"""

import json
import math
import re
import string

from scaling.configs.errors import suggest
from scaling.sweeps.launchers import Request, Resources, hand_over, parse_resources, refused, slug
from scaling.sweeps.sweep_dir import SweepDir
from scaling.train.signals import EXIT_PREEMPTED

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
    "slices": "slices for each cell; default 1",
    "chips_per_host": "default 4, or all chips of a smaller slice",
    "spot": "use machines that may be taken away: true or false (default)",
    "namespace": "default: default",
    "queue": "Kueue's local queue, if there is one",
    "max_restarts": "restarts after failures; default 3",
}
MOUNT = "/sweeps"
# Fields: github.com/kubernetes-sigs/jobset, api/jobset/v1alpha2/jobset_types.go. A slice is a node
# pool, which no two jobs share; a pod has 120 s to save after SIGTERM. Ports: 8471 between the hosts
# of a slice, 8476 for JAX's coordinator, 8080 between slices.
MANIFEST = string.Template("""\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  namespace: $namespace
  labels: $labels
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $max_restarts
    rules:
      - name: preempted
        action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: $slices
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: scaling, operator: In, values: [$preempted]}
              - action: FailJob
                onPodConditions: [{type: DisruptionTarget, status: "True"}]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 120
              nodeSelector: $selector
              containers:
                - name: scaling
                  image: $image
                  command: $command
                  ports: [{containerPort: 8471}, {containerPort: 8476}, {containerPort: 8080}]
                  env: [{name: JAX_PLATFORMS, value: "tpu,cpu"}]
                  resources:
                    requests: {google.com/tpu: $chips}
                    limits: {google.com/tpu: $chips}
                  volumeMounts: [{name: sweeps, mountPath: $mount}]
              volumes:
                - name: sweeps
                  persistentVolumeClaim: {claimName: $claim}
""")


def parse(text: str) -> Resources:
    """What `--resources` asks for; ConfigError as `parse_resources`, or of a slice that cannot be."""
    asked = parse_resources(text, KEYS, required=("tpu", "topology", "image", "claim"))
    if asked["tpu"] not in ACCELERATORS:
        hint = suggest(str(asked["tpu"]), list(ACCELERATORS))
        raise refused(f"tpu={asked['tpu']} is not a generation", hint)
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", str(asked["topology"])):
        raise refused(f"topology={asked['topology']} is not a topology", "write 4x4 or 4x4x4")
    chips, per_host = _chips(asked)
    if chips % per_host:
        hint = "chips_per_host must divide them"
        raise refused(f"{chips} chips do not divide over hosts of {per_host}", hint)
    return asked


def _chips(asked: Resources) -> tuple[int, int]:
    """(chips of a slice, chips of a host)."""
    chips = math.prod(int(size) for size in str(asked["topology"]).split("x"))
    return chips, int(asked.get("chips_per_host", min(chips, 4)))


def manifests(sweep: SweepDir, asked: Resources, parts: int) -> str:
    """The YAML of a JobSet for each part of the cells."""
    chips, per_host = _chips(asked)
    selector = {
        "cloud.google.com/gke-tpu-accelerator": ACCELERATORS[str(asked["tpu"])],
        "cloud.google.com/gke-tpu-topology": str(asked["topology"]),
    }
    if asked.get("spot"):
        selector["cloud.google.com/gke-spot"] = "true"
    words = ["python", "-m", "scaling.sweep", f"--workdir={MOUNT}/{sweep.path.name}"]
    values = {
        "namespace": asked.get("namespace", "default"),
        "image": asked["image"],
        "claim": asked["claim"],
        "selector": selector,
        "labels": {"kueue.x-k8s.io/queue-name": asked["queue"]} if "queue" in asked else {},
        "hosts": chips // per_host,
        "chips": per_host,
        "slices": asked.get("slices", 1),
        "max_restarts": asked.get("max_restarts", 3),
        "preempted": EXIT_PREEMPTED,
        "mount": MOUNT,
    }
    texts = []
    for part in range(parts):
        command = [*words, f"--part={part}/{parts}"]
        of_part = {"name": f"{slug(sweep.name, 30)}-{part}", "command": command}
        # JSON is YAML, and needs no thought about what must be quoted.
        texts.append(MANIFEST.substitute({k: json.dumps(v) for k, v in (values | of_part).items()}))
    return "---\n".join(texts)


def launch(sweep: SweepDir, request: Request) -> int:
    """Writes the manifests and a script that applies them; runs it if asked to."""
    path = sweep.path / "jobset.yaml"
    return hand_over(
        path,
        manifests(sweep, parse(request.resources), request.parts(sweep)),
        f'#!/bin/sh\nexec kubectl apply -f "$(dirname "$0")/{path.name}"\n',
        tool="kubectl",
        submit=request.submit,
        hint=f"copy {sweep.path} to {MOUNT}/{sweep.path.name} of the claim, then run {{script}}",
    )
