"""What the cluster launchers write, against the classes and schemas that will read it."""

import copy
import json
import os
import pathlib
import shutil
import subprocess

import pytest
import yaml
from helpers import ROOT
from jobset_schema import problems
from sweep_helpers import claimed

from scaling import configs
from scaling.configs import ConfigError
from scaling.sweeps import axis, schedule
from scaling.sweeps.launchers import Request, jobset, parse_resources, skypilot, slurm

SKY = "accelerators=tpu-v6e-8,infra=gcp,runtime_version=v2-alpha-tpuv6e,disk_size=100"
GKE = "tpu=v6e,topology=4x4,slices=2,image=example.io/scaling:1,claim=sweeps"


@pytest.fixture
def sweep(tmp_path):
    return claimed(tmp_path / "My_Sweep", axis("train.steps", (10, 20, 30, 40, 100)))


def launch(module, sweep, asked, workers=2):
    assert module.launch(sweep, Request(workers=workers, resources=asked)) == 0


def test_parts_cost_alike_and_share_no_cell(sweep):
    two = schedule.parts(sweep, 2)
    assert sorted(two[0] + two[1]) == sorted(sweep.ids)
    loads = [sum(sweep.costs[one].flops for one in part) for part in two]
    assert max(loads) == min(loads)  # 100 against 40 + 30 + 20 + 10
    assert schedule.parts(sweep, 2) == two


def test_jobsets_hold_to_the_schema(sweep):
    launch(jobset, sweep, GKE + ",spot=true,queue=research,namespace=ml")
    found = list(yaml.safe_load_all((sweep.path / "jobset.yaml").read_text()))
    assert len(found) == 2
    for part, one in enumerate(found):
        assert problems(one) == []
        job = one["spec"]["replicatedJobs"][0]
        assert (job["replicas"], job["template"]["spec"]["parallelism"]) == (2, 4)
        (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
        assert container["command"][-1] == f"--part={part}/2"
        assert container["resources"]["limits"] == {"google.com/tpu": 4}


def test_the_schema_refuses_what_it_should(sweep):
    good = yaml.safe_load(jobset.manifests(sweep, jobset.parse(GKE), 1))
    for path, value in [
        (("spec", "failurePolicy", "maxRestart"), 3),
        (("spec", "failurePolicy", "rules", 0, "action"), "Restart"),
        (("spec", "replicatedJobs", 0, "replicas"), "2"),
        (("metadata", "name"), "My_Sweep"),
        (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers"), []),
    ]:
        bad = copy.deepcopy(good)
        inner = bad
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        assert problems(bad), path


@pytest.mark.parametrize(
    ("module", "asked", "words"),
    [
        (jobset, "tpu=v6e", "topology is required"),
        (jobset, GKE.replace("v6e", "v6x"), "tpu=v6x"),
        (jobset, GKE.replace("4x4", "4by4"), "topology=4by4"),
        (jobset, GKE + ",chips_per_host=3", "do not divide"),
        (jobset, GKE + ",slice=2", "did you mean slices"),
        (skypilot, "infra=gcp", "accelerators is required"),
        (skypilot, SKY + ",spott=true", "did you mean spot"),
        (skypilot, "accelerators", "is not KEY=VALUE"),
        (slurm, "nodes=2", "nodes=2"),
        (slurm, "cluster=pbs", "cluster=pbs"),
        (slurm, "timeout_min=1,timeout_min=2", "given twice"),
    ],
)
def test_wrong_resources_are_named(module, asked, words):
    with pytest.raises(configs.ConfigError, match=words):
        module.parse(asked)


SKY_CHECK = """
import json, sys, sky
config = json.loads(sys.stdin.read())
task = sky.Task.from_yaml_config(json.loads(json.dumps(config)))
task.validate()
(resources,) = task.resources
print(json.dumps([task.num_nodes, resources.use_spot, resources.accelerators, str(resources.cloud)]))
gke = json.loads(json.dumps(config))
gke["resources"] |= {"accelerators": "tpu-v6e-slice:4", "infra": "kubernetes"}
gke["resources"].pop("accelerator_args")
print(*[str(one.cloud) for one in sky.Task.from_yaml_config(gke).resources])
config["resources"]["use_spott"] = True
try:
    sky.Task.from_yaml_config(config)
except Exception as error:
    print("refused", "use_spott" in str(error))
"""


def test_the_sky_task_is_accepted_by_sky_itself(sweep, tmp_path):
    """Needs `sky` on the path (pip install skypilot, in an environment of its own)."""
    sky = shutil.which("sky")
    if sky is None:
        pytest.skip("SkyPilot is not installed: put its `sky` on the path to check the task file")
    launch(skypilot, sweep, SKY)
    written = yaml.safe_load((sweep.path / "skypilot.yaml").read_text())
    python = pathlib.Path(sky).resolve().with_name("python")
    done = subprocess.run(
        [str(python), "-c", SKY_CHECK], input=json.dumps(written), capture_output=True, text=True,
        cwd=ROOT, env=os.environ | {"HOME": str(tmp_path)}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, gke, second = done.stdout.splitlines()[-3:]
    assert gke == "Kubernetes"
    assert json.loads(first) == [1, True, {"tpu-v6e-8": 1}, "GCP"]
    assert second == "refused True"


def test_the_sky_task_says_what_it_must(sweep):
    launch(skypilot, sweep, SKY + ",spot=false,bucket=mine", workers=3)
    task = yaml.safe_load((sweep.path / "skypilot.yaml").read_text())
    assert task["resources"]["use_spot"] is False
    assert task["file_mounts"]["/sweep"]["name"] == "mine"
    assert task["setup"].startswith("pip install -q -e '.[tpu]'")
    assert task["run"].endswith("scaling.sweep --workdir=/sweep --part=$PART/$PARTS")
    assert task["envs"] == {"PART": "0", "PARTS": "3"}
    pod = yaml.safe_load(skypilot.task(sweep, skypilot.parse("accelerators=tpu-v5p-16"), 1))
    assert pod["envs"]["JAX_COORDINATOR_ADDRESS"] == "auto"
    script = (sweep.path / "skypilot.sh").read_text()
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0
    assert "seq 0 2" in script


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("vm.sh", ("create",), ["tpu-vm create scaling --accelerator-type=v6e-8", "--spot"]),
        (
            "vm.sh",
            ("run", "--config=a b.py", "--config.seed=1"),
            [r"scaling.main --config=a\ b.py --config.seed=1 --config.platform=tpu"],
        ),
        ("vm.sh", ("fetch", "x"), ["scp --recurse scaling:scaling/runs/x runs/"]),
        ("vm.sh", ("delete",), ["delete scaling --quiet --zone=here"]),
        ("pod.sh", ("create",), ["queued-resources create scaling-pod", "v6e-64", "--spot"]),
        (
            "pod.sh",
            ("run", "--config=x.py"),
            ["--worker=all", "JAX_COORDINATOR_ADDRESS=auto .venv/bin/python -m scaling.main"],
        ),
        ("pod.sh", ("sweep", "/shared/s"), ["scaling.sweep --workdir=/shared/s --part=0/1"]),
        ("pod.sh", ("stop",), ["kill -TERM"]),
    ],
)
def test_tpu_scripts_say_to_gcloud_what_they_promise(tmp_path, script, words, said):
    log = tmp_path / "said"
    fake = tmp_path / "gcloud"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    fake.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ZONE": "here", "SPOT": "1"}
    path = ROOT / "scripts" / "tpu" / script
    subprocess.run([str(path), *words], env=env, check=True, capture_output=True)
    for part in said:
        assert part in log.read_text()
    wrong = subprocess.run([str(path), "fly"], env=env, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert f"scripts/tpu/{script} delete" in wrong.stdout


def test_a_resource_with_a_comma_stands_in_quotes_or_brackets():
    known = {"image": "an image", "nodes": "names"}
    asked = parse_resources("image='a,b',nodes=node[01-04,07]", known)
    assert asked == {"image": "a,b", "nodes": "node[01-04,07]"}
    with pytest.raises(ConfigError, match=r"--resources: .*lacks a closing '"):
        parse_resources("image='a", known)
