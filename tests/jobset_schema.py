"""The part of the JobSet, Job and Pod types that we write, as a schema that refuses all else.

Fields, enums and required ones from api/jobset/v1alpha2/jobset_types.go of kubernetes-sigs/jobset and,
for Job and Pod, from the Kubernetes API of batch/v1 and core/v1.
"""

import re

NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
RULE_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
ACTIONS = {
    *("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob"),
    "RestartJobAndIgnoreMaxRestarts",
}
REASONS = {"BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy", "FailedIndexes"}

STRINGS = {str: str}
LABELS = STRINGS
RESOURCES = {str: int}
CONTAINER = {
    "name!": NAME,
    "image!": str,
    "command": [str],
    "args": [str],
    "ports": [{"containerPort!": int, "name": NAME}],
    "env": [{"name!": str, "value": str}],
    "resources": {"requests": RESOURCES, "limits": RESOURCES},
    "volumeMounts": [{"name!": NAME, "mountPath!": str, "readOnly": bool}],
}
POD = {
    "restartPolicy!": {"Never"},  # a Job with a podFailurePolicy takes no other
    "terminationGracePeriodSeconds": int,
    "nodeSelector": LABELS,
    "serviceAccountName": NAME,
    "containers!": [CONTAINER],
    "volumes": [{"name!": NAME, "persistentVolumeClaim": {"claimName!": NAME}}],
}
JOB = {
    "parallelism": int,
    "completions": int,
    "completionMode": {"Indexed", "NonIndexed"},
    "backoffLimit": int,
    "activeDeadlineSeconds": int,
    "podFailurePolicy": {
        "rules!": [
            {
                "action!": {"FailJob", "Ignore", "Count", "FailIndex"},
                "onExitCodes": {
                    "containerName": NAME,
                    "operator!": {"In", "NotIn"},
                    "values!": [int],
                },
                "onPodConditions": [{"type!": str, "status!": {"True", "False", "Unknown"}}],
            }
        ]
    },
    "template!": {"metadata": {"labels": LABELS, "annotations": STRINGS}, "spec!": POD},
}
JOBSET = {
    "apiVersion!": {"jobset.x-k8s.io/v1alpha2"},
    "kind!": {"JobSet"},
    "metadata!": {"name!": NAME, "namespace": NAME, "labels": LABELS, "annotations": STRINGS},
    "spec!": {
        "failurePolicy": {
            "maxRestarts": int,
            "restartStrategy": {"Recreate", "BlockingRecreate", "InPlaceRestart"},
            "rules": [
                {
                    "name!": RULE_NAME,
                    "action!": ACTIONS,
                    "onJobFailureReasons": [REASONS],
                    "onJobFailureMessagePatterns": [str],
                    "targetReplicatedJobs": [NAME],
                }
            ],
        },
        "successPolicy": {"operator!": {"All", "Any"}, "targetReplicatedJobs": [NAME]},
        "suspend": bool,
        "ttlSecondsAfterFinished": int,
        "replicatedJobs": [
            {
                "name!": NAME,
                "groupName": str,
                "replicas": int,
                "template!": {"metadata": {"annotations": STRINGS}, "spec!": JOB},
            }
        ],
    },
}


def problems(value, schema=JOBSET, path="") -> list[str]:
    """What in a manifest the schema does not know, lacks, or has of another type."""
    if isinstance(schema, dict) and str in schema:
        return _mapping(value, schema[str], path)
    if isinstance(schema, dict):
        return _fields(value, schema, path)
    if isinstance(schema, list):
        if not isinstance(value, list) or not value:
            return [f"{path} is no list"]
        return [p for i, one in enumerate(value) for p in problems(one, schema[0], f"{path}[{i}]")]
    if isinstance(schema, set):
        return [] if value in schema else [f"{path} = {value!r} is none of {sorted(schema)}"]
    if isinstance(schema, re.Pattern):
        right = isinstance(value, str) and len(value) <= 63 and schema.fullmatch(value)
        return [] if right else [f"{path} = {value!r} does not match {schema.pattern}"]
    return [] if type(value) is schema else [f"{path} = {value!r} is no {schema.__name__}"]


def _mapping(value, each, path) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path} is no mapping"]
    return [p for key, one in value.items() for p in problems(one, each, f"{path}.{key}")]


def _fields(value, schema, path) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path} is no mapping"]
    known = {key.rstrip("!"): inner for key, inner in schema.items()}
    found = [f"{path}.{key} is unknown" for key in value if key not in known]
    required = [key.rstrip("!") for key in schema if key.endswith("!")]
    found += [f"{path}.{key} is missing" for key in required if key not in value]
    for key, one in value.items():
        if key in known:
            found += problems(one, known[key], f"{path}.{key}")
    return found
