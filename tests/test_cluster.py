"""What is in cluster/ can be deployed, as far as can be told without a Kubernetes, a Slurm or a second machine.

Every check of a rule is itself checked: a file that breaks the rule must be refused.
"""

import copy
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonpatch
import jsonschema
import pytest
import yaml

import tlearn
from tlearn import cli

PROJECT = Path(__file__).parent.parent
CLUSTER = PROJECT / "cluster"
KUBERNETES = CLUSTER / "kubernetes"
BASE_FOLDER = KUBERNETES / "base"
SCHEMAS = Path(os.environ.get("TLEARN_SCHEMAS") or PROJECT.parent / "shared" / "schemas")
OVERLAYS = ("cpu", "gpu")
Manifest = dict[str, Any]


def documents(path: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def kustomization(folder: Path) -> Manifest:
    return documents(folder / "kustomization.yaml")[0]


BASE = [one for name in kustomization(BASE_FOLDER)["resources"] for one in documents(BASE_FOLDER / name)]


def overlaid(name: str) -> list[Manifest]:
    """The base with the patches of an overlay, as kustomize applies them."""
    manifests = copy.deepcopy(BASE)
    for patch in kustomization(KUBERNETES / "overlays" / name)["patches"]:
        operations = yaml.safe_load(patch["patch"])
        for manifest in manifests:
            if manifest["kind"] == patch["target"]["kind"]:
                jsonpatch.apply_patch(manifest, operations, in_place=True)
    return manifests


ALL = [("base", one) for one in BASE] + [(name, one) for name in OVERLAYS for one in overlaid(name)]
RAY = [(f"{place}-{one['kind']}", one) for place, one in ALL if one["apiVersion"] == "ray.io/v1"]
PODS = RAY + [("base-CronJob", one) for one in BASE if one["kind"] == "CronJob"]


def each(manifests: list[tuple[str, Manifest]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("manifest", [one for _, one in manifests], ids=[name for name, _ in manifests])


def of_kind(kind: str) -> Manifest:
    return copy.deepcopy(next(one for one in BASE if one["kind"] == kind))


def job_spec(manifest: Manifest) -> Manifest:
    """What a RayJob says of its job; nothing of a RayCluster."""
    spec = manifest["spec"]
    return {"RayJob": spec, "RayCronJob": spec.get("jobTemplate", {})}.get(manifest["kind"], {})


def cluster_spec(manifest: Manifest) -> Manifest:
    if manifest["kind"] == "RayCluster":
        return manifest["spec"]
    return job_spec(manifest).get("rayClusterSpec", {})


def templates(manifest: Manifest) -> Iterator[Manifest]:
    """Every pod template in a manifest."""
    for value in manifest.values() if isinstance(manifest, dict) else manifest:
        if isinstance(value, dict) and "containers" in value.get("spec", {}):
            yield value
        elif isinstance(value, (dict, list)):
            yield from templates(value)


# --- Kubernetes: the schemas of KubeRay 1.7 and what its operator refuses beyond them


def validator(kind: str) -> jsonschema.Draft202012Validator:
    path = SCHEMAS / f"{kind.lower()}_v1.json"
    if not path.exists():
        pytest.skip(f"no {path}: the schemas of KubeRay are not beside the project (or in $TLEARN_SCHEMAS)")
    return jsonschema.Draft202012Validator(json.loads(path.read_text()))


@each(RAY)
def test_manifests_of_ray_fit_their_schemas(manifest: Manifest) -> None:
    check = validator(manifest["kind"])
    assert [f"{error.json_path}: {error.message}" for error in check.iter_errors(manifest)] == []
    wrong = copy.deepcopy(manifest)
    cluster_spec(wrong)["workerGroupSpecs"][0]["maxReplica"] = 3
    assert not check.is_valid(wrong)


def refused_by_the_operator(manifest: Manifest) -> Iterator[str]:
    """What KubeRay's operator refuses and its schemas let pass."""
    job, cluster = job_spec(manifest), cluster_spec(manifest)
    if len(manifest["metadata"]["name"]) > {"RayCluster": 53, "RayJob": 47, "RayCronJob": 36}[manifest["kind"]]:
        yield "name too long"
    selects, sidecar = "clusterSelector" in job, job.get("submissionMode") == "SidecarMode"
    if job and ("rayClusterSpec" in job) == selects:
        yield "rayClusterSpec or clusterSelector"
    if selects and (job.get("suspend") or sidecar or job.get("backoffLimit")):
        yield "clusterSelector forbids suspend, SidecarMode, backoffLimit"
    restarts = [one["spec"].get("restartPolicy", "Never") for one in templates(cluster)]
    if sidecar and ({"submitterPodTemplate", "submitterConfig"} & job.keys() or restarts[:1] not in ([], ["Never"])):
        yield "SidecarMode forbids a submitter and a head that restarts"
    version_2 = cluster.get("autoscalerOptions", {}).get("version") == "v2"
    if version_2 and set(restarts) - {"Never"}:
        yield "autoscaler v2 needs pods that do not restart"
    if any("idleTimeoutSeconds" in group for group in cluster.get("workerGroupSpecs", [])) and not version_2:
        yield "idleTimeoutSeconds of a group needs autoscaler v2"
    ends, lives = job.get("shutdownAfterJobFinishes"), job.get("ttlSecondsAfterFinished")
    if job.get("deletionStrategy", {}).get("deletionRules") and (ends or lives):
        yield "deletionRules or shutdownAfterJobFinishes"
    if lives and not ends:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if job.get("suspend") and not ends:
        yield "suspend needs shutdownAfterJobFinishes"
    version = tuple(int(part) for part in cluster.get("rayVersion", "0").split("."))
    if cluster.get("authOptions", {}).get("mode") == "token" and version < (2, 52):
        yield "a token needs rayVersion 2.52"
    tolerance = cluster.get("gcsFaultToleranceOptions", {})
    if tolerance.get("backend") == "rocksdb" and any(name.startswith("redis") for name in tolerance):
        yield "rocksdb forbids redis"
    try:
        yaml.safe_load(job.get("runtimeEnvYAML", ""))
    except yaml.YAMLError:
        yield "runtimeEnvYAML is no YAML"


@each(RAY)
def test_manifests_of_ray_pass_the_operator(manifest: Manifest) -> None:
    assert list(refused_by_the_operator(manifest)) == []


@pytest.mark.parametrize(
    ("rule", "kind", "values"),
    [
        ("name too long", "RayCluster", {"/metadata/name": "c" * 54}),
        ("name too long", "RayJob", {"/metadata/name": "j" * 48}),
        ("name too long", "RayCronJob", {"/metadata/name": "s" * 37}),
        ("rayClusterSpec or clusterSelector", "RayJob", {"/spec/clusterSelector": {"ray.io/cluster": "tlearn"}}),
        ("clusterSelector forbids", "RayJob", {"/spec/clusterSelector": {"ray.io/cluster": "tlearn"}}),
        ("SidecarMode forbids", "RayJob", {"/spec/submissionMode": "SidecarMode"}),
        ("autoscaler v2", "RayCluster", {"/spec/headGroupSpec/template/spec/restartPolicy": "Always"}),
        (
            "idleTimeoutSeconds",
            "RayCluster",
            {"/spec/workerGroupSpecs/0/idleTimeoutSeconds": 60, "/spec/autoscalerOptions/version": "v1"},
        ),
        ("deletionRules", "RayJob", {"/spec/deletionStrategy": {"deletionRules": [{"policy": "DeleteCluster"}]}}),
        ("ttlSecondsAfterFinished needs", "RayJob", {"/spec/shutdownAfterJobFinishes": False}),
        ("suspend needs", "RayJob", {"/spec/shutdownAfterJobFinishes": False, "/spec/suspend": True}),
        ("a token needs", "RayCluster", {"/spec/rayVersion": "2.51.2"}),
        (
            "rocksdb forbids",
            "RayCluster",
            {"/spec/gcsFaultToleranceOptions": {"backend": "rocksdb", "redisAddress": "redis:6379"}},
        ),
        ("runtimeEnvYAML", "RayCronJob", {"/spec/jobTemplate/runtimeEnvYAML": "env_vars: {"}),
    ],
)
def test_what_the_operator_refuses_is_found(rule: str, kind: str, values: dict[str, Any]) -> None:
    assert any(found.startswith(rule) for found in refused_by_the_operator(changed(of_kind(kind), values)))


def changed(manifest: Manifest, values: dict[str, Any]) -> Manifest:
    operations = [{"op": "add", "path": path, "value": value} for path, value in values.items()]
    patched: Manifest = jsonpatch.apply_patch(manifest, operations)
    return patched


# --- Kubernetes: what we promise


def unsafe(manifest: Manifest) -> Iterator[str]:
    """What would run as root, without bounds, without a token or out of reach of the network policy."""
    if manifest["kind"] != "CronJob" and cluster_spec(manifest).get("authOptions") != {
        "mode": "token",
        "secretName": "tlearn-token",
    }:
        yield "no token"
    sidecar = cluster_spec(manifest).get("autoscalerOptions")
    for template in templates(manifest):
        spec = template["spec"]
        if template.get("metadata", {}).get("labels", {}).get("app.kubernetes.io/part-of") != "tlearn":
            yield "not in the network policy"
        context = spec.get("securityContext", {})
        # The user by number: the name that the image gives does not tell the kubelet that it is not root's.
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            yield "root"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield "no seccomp profile"
        is_scaling_head = bool(sidecar) and spec["containers"][0]["name"] == "ray-head"
        if spec.get("automountServiceAccountToken", True) and not is_scaling_head:
            yield "a service account's token"
        volumes = {volume["persistentVolumeClaim"]["claimName"] for volume in spec.get("volumes", [])}
        if volumes - {one["metadata"]["name"] for one in BASE if one["kind"] == "PersistentVolumeClaim"}:
            yield "no such claim"
        for container in [*spec["containers"], *([sidecar] if is_scaling_head else [])]:
            context = container.get("securityContext", {})
            if context.get("allowPrivilegeEscalation", True) or context.get("capabilities") != {"drop": ["ALL"]}:
                yield "privileges"
            limits, requests = (container.get("resources", {}).get(name, {}) for name in ("limits", "requests"))
            if not {"cpu", "memory"} <= limits.keys() or limits.get("memory") != requests.get("memory"):
                yield "no bounds"
            for variable in container.get("env", []):
                if re.search("TOKEN|KEY|SECRET|PASSWORD", variable["name"]) and "secretKeyRef" not in str(variable):
                    yield "a secret in the open"


@each(PODS)
def test_pods_are_confined(manifest: Manifest) -> None:
    assert list(unsafe(manifest)) == []


HEAD, POD = "/spec/headGroupSpec/template", "/spec/jobTemplate/spec/template/spec"


@pytest.mark.parametrize(
    ("rule", "kind", "values"),
    [
        ("no token", "RayCluster", {"/spec/authOptions/mode": "disabled"}),
        ("not in the network policy", "RayCluster", {f"{HEAD}/metadata/labels": {}}),
        ("root", "RayCluster", {f"{HEAD}/spec/securityContext/runAsUser": 0}),
        ("root", "CronJob", {f"{POD}/securityContext": {}}),
        ("no seccomp profile", "CronJob", {f"{POD}/securityContext": {}}),
        ("a service account's token", "CronJob", {f"{POD}/automountServiceAccountToken": True}),
        ("no such claim", "RayCluster", {f"{HEAD}/spec/volumes/0/persistentVolumeClaim/claimName": "other"}),
        ("privileges", "RayCluster", {"/spec/autoscalerOptions/securityContext": {}}),
        ("no bounds", "RayCluster", {f"{HEAD}/spec/containers/0/resources/requests/memory": "1Gi"}),
        ("a secret in the open", "CronJob", {f"{POD}/containers/0/env/1": {"name": "RAY_AUTH_TOKEN", "value": "0f"}}),
    ],
)
def test_pods_that_are_not_confined_are_found(rule: str, kind: str, values: dict[str, Any]) -> None:
    assert rule in unsafe(changed(of_kind(kind), values))


def test_no_manifest_holds_a_secret() -> None:
    assert {one["kind"] for one in BASE} == {
        *("Namespace", "PersistentVolumeClaim", "NetworkPolicy", "RayJob", "RayCronJob", "RayCluster", "CronJob")
    }
    variables = {one["name"]: one for one in next(templates(of_kind("CronJob")))["spec"]["containers"][0]["env"]}
    assert variables["RAY_AUTH_MODE"]["value"] == "token"
    assert variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "tlearn-token", "key": "auth_token"}


def test_every_node_sees_the_same_volume() -> None:
    assert of_kind("PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]
    for manifest in (of_kind(kind) for kind in ("RayJob", "RayCronJob", "RayCluster")):
        for template in templates(cluster_spec(manifest)):
            assert template["spec"]["containers"][0]["volumeMounts"] == [{"name": "data", "mountPath": "/data"}]


def test_only_pods_of_ours_and_the_operator_reach_the_cluster() -> None:
    policy = of_kind("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    ours, operator = policy["ingress"]
    assert ours["from"] == [{"podSelector": policy["podSelector"]}]
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]


def test_two_nights_never_overlap() -> None:
    spec = of_kind("CronJob")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert 0 < spec["startingDeadlineSeconds"] < 86400
    # The other kind has no such fields; it is one or the other, at the same hour.
    assert spec["schedule"] == of_kind("RayCronJob")["spec"]["schedule"]


@pytest.mark.parametrize("kind", ["RayJob", "RayCluster"])
def test_workers_come_from_zero_for_a_driver_that_asks(kind: str) -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config

    group = cluster_spec(of_kind(kind))["workerGroupSpecs"][0]
    assert (group["replicas"], group["minReplicas"]) == (0, 0) < (0, group["maxReplicas"])
    offered = autoscaling_config._get_ray_resources_from_group_spec(group, is_head=False)
    asked = json.loads(of_kind("RayJob")["spec"]["entrypointResources"])
    assert asked.items() <= offered.items()
    assert submitted().entrypoint_resources == asked


def test_the_gpu_overlay_puts_workers_on_gpus() -> None:
    for place, manifest in ALL:
        for group in cluster_spec(manifest).get("workerGroupSpecs", []) if manifest["kind"].startswith("Ray") else []:
            spec = group["template"]["spec"]
            gpus = {spec["containers"][0]["resources"][name].get("nvidia.com/gpu") for name in ("limits", "requests")}
            tolerated = [one["key"] for one in spec.get("tolerations", [])]
            assert (gpus, tolerated) == (({"1"}, ["nvidia.com/gpu"]) if place == "gpu" else ({None}, []))


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_refer_to_what_is_there(name: str) -> None:
    folder = KUBERNETES / "overlays" / name
    for resource in kustomization(folder)["resources"]:
        assert (folder / resource / "kustomization.yaml").is_file()
    targets = [patch["target"]["kind"] for patch in kustomization(folder)["patches"]]
    assert sorted(targets) == sorted(one["kind"] for one in BASE if one["kind"].startswith("Ray"))
    listed = kustomization(BASE_FOLDER)["resources"]
    assert {*listed, "kustomization.yaml"} == {path.name for path in BASE_FOLDER.iterdir()}


@pytest.mark.parametrize("name", OVERLAYS)
def test_kustomize_makes_of_an_overlay_what_these_tests_make_of_it(name: str) -> None:
    programs = [["kustomize", "build"], ["kubectl", "kustomize"]]
    program = next((one for one in programs if shutil.which(one[0])), None)
    if program is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    done = subprocess.run([*program, str(KUBERNETES / "overlays" / name)], capture_output=True, text=True, check=True)
    rendered = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout)}
    expected = overlaid(name)
    assert len(rendered) == len(expected)
    for manifest in expected:
        found = rendered[manifest["kind"], manifest["metadata"]["name"]]
        assert found.get("spec") == manifest.get("spec")
        assert found["metadata"]["labels"]["app.kubernetes.io/part-of"] == "tlearn"
        assert found["metadata"].get("namespace", "tlearn") == "tlearn"


# --- Commands and versions


def submit_command() -> list[str]:
    command: list[str] = next(templates(of_kind("CronJob")))["spec"]["containers"][0]["command"]
    return command


def submitted() -> Any:
    """What the CronJob tells `tlearn submit`, parsed by it; ends as the job's own flags are checked."""
    command = [word.replace("$(SUBMISSION_ID)", "tlearn-nightly-1") for word in submit_command()]
    assert command[:2] == ["tlearn", "submit"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlearn.distributed.submit.run", lambda *arguments: arguments)
        config, job, words = cli.main(command[1:])
    assert list(words) == command[command.index("score") :] and job.output == "/data/scores/"
    return config


def slurm_command(name: str) -> str:
    text = (CLUSTER / "slurm" / f"{name}.sbatch").read_text()
    return text.rpartition(" -- ")[2].replace('"$@" ', "")


def crontab() -> tuple[dict[str, str], str]:
    """(variables, command) of the one line that is run."""
    lines = [line for line in (CLUSTER / "cron" / "crontab").read_text().splitlines() if line and line[0] != "#"]
    variables = dict(line.split("=", 1) for line in lines[:-1])
    *when, user, command = lines[-1].split(maxsplit=6)
    assert when == ["15", "2", "*", "*", "*"] and user == "tlearn"
    return variables, command


def service(name: str) -> str:
    return re.search(rf"^{name}=(.*)$", (CLUSTER / "cron" / "tlearn-score.service").read_text(), re.MULTILINE)[1]


ENTRYPOINTS = {
    "rayjob": lambda: of_kind("RayJob")["spec"]["entrypoint"],
    "raycronjob": lambda: of_kind("RayCronJob")["spec"]["jobTemplate"]["entrypoint"],
    "cronjob": lambda: shlex.join(["tlearn", *submit_command()[submit_command().index("score") :]]),
    "slurm-train": lambda: slurm_command("train"),
    "slurm-score": lambda: slurm_command("score"),
    "crontab": lambda: crontab()[1].partition(">>")[0],
    "systemd": lambda: service("ExecStart"),
}


def parsed(line: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The config that tlearn makes of a line, by tlearn's own parser."""
    configs = []

    class Parsed(BaseException):  # what no handler of errors handles
        pass

    def stop(config: Any, given: frozenset[str] = frozenset()) -> None:
        configs.append(config)
        raise Parsed

    for target in ("tlearn.training.job.train", "tlearn.scoring.job.score"):
        monkeypatch.setattr(target, stop)
    for target in ("tlearn.cli.check_paths", "tlearn.data.splits.find"):  # paths of the cluster are not here
        monkeypatch.setattr(target, lambda *_: None)
    words = shlex.split(line)
    if words[0] == "python":
        script = Path(words[1])
        assert script.parent == Path("/opt/tlearn/jobs") and (PROJECT / "jobs" / script.name).is_file()
        words = [script.name, script.stem, *words[2:]]
    assert Path(words[0]).name in ("tlearn", "train.py", "score.py")
    with pytest.raises(Parsed):
        cli.main(words[1:])
    return configs[0]


@pytest.mark.parametrize("name", ENTRYPOINTS)
def test_entrypoints_have_the_flags_of_tlearn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ENTRYPOINTS[name]()
    config = parsed(line, monkeypatch)
    # What one job leaves the other finds: a table that grows, the model of the run.
    if hasattr(config, "data"):
        assert config.output.endswith(("/run", "RUN"))
    else:
        assert config.model.endswith(("/run/model", "MODEL")) and config.output.endswith(("/scores/", "TABLE"))
    with pytest.raises(pytest.fail.Exception):
        parsed(f"{line} --no-such-flag 1", monkeypatch)


def test_the_job_of_the_cronjob_goes_to_the_shared_cluster() -> None:
    name = of_kind("RayCluster")["metadata"]["name"]
    assert submitted().address == f"http://{name}-head-svc:8265"


def test_image_manifests_and_lock_have_the_same_versions() -> None:
    locked = dict(re.findall(r"^([\w-]+)==([\w.]+)", (PROJECT / "requirements.lock").read_text(), re.MULTILINE))
    version = tlearn.__version__
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    ray, python = re.search(r"^FROM rayproject/ray:([\d.]+)-py(\d+)$", dockerfile, re.MULTILINE).groups()
    assert ray == locked["ray"]
    assert python == "311"
    pods = [pod["spec"] for _, manifest in PODS for pod in templates(manifest)]
    images = {container["image"] for pod in pods for container in pod["containers"]}
    assert images == {f"tlearn:{version}-ray{ray}-py{python}"}
    assert f"--tag {images.pop()} ." in dockerfile
    for _, manifest in RAY:
        assert cluster_spec(manifest)["rayVersion"] == ray


def test_the_image_installs_the_lock_and_does_not_run_as_root() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert "pip install --no-cache-dir --require-hashes --requirement requirements.lock" in text
    assert re.findall(r"^USER (\w+)$", text, re.MULTILINE)[-1] == "ray"
    assert "://" not in text and "--index" not in text and "--extra-index" not in text
    copied = {word.rstrip("/") for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()}
    assert copied == {"requirements.lock", "pyproject.toml", "README.md", "LICENSE", "tlearn", "jobs"}
    allowed = {line[1:].rstrip("/") for line in (PROJECT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert copied == allowed and all((PROJECT / name).exists() for name in copied)


# --- `ray job submit`


def test_the_working_directory_is_small_and_holds_what_a_job_needs(tmp_path: Path) -> None:
    from ray._private.runtime_env import packaging

    folder = tmp_path / "project"
    if not (PROJECT / ".git").exists():
        pytest.skip("not a checkout of git: what belongs to the project is not known")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.strip("\0").split("\0"):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)
    for name in (".git/config", ".venv/bin/python", "runs/run/model.safetensors", "tlearn/__pycache__/x.pyc"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"0")
    environment = yaml.safe_load((CLUSTER / "runtime_env.yaml").read_text())
    assert environment["working_dir"] == "."
    package = tmp_path / "package.zip"
    packaging.create_package(str(folder), package, include_gitignore=True, excludes=environment["excludes"])
    with zipfile.ZipFile(package) as content:
        sizes = {entry.filename: entry.file_size for entry in content.infolist() if not entry.is_dir()}
    parts = {part for name in sizes for part in name.split("/")}
    assert not parts & {".git", ".venv", "runs", "tests", "cluster", ".ci", "__pycache__"}
    modules = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "tlearn").rglob("*.py")}
    page = {f"tlearn/report/{name}" for name in ("report.html.jinja", "page.css", "page.js")}
    assert {"jobs/train.py", "jobs/score.py", *page, *modules} <= sizes.keys()
    assert sum(sizes.values()) < 4 * 2**20  # Ray's limit is 512 MiB, that of its job server 100


# --- `ray up`


def test_the_file_for_ray_up_fits_its_schema() -> None:
    package = importlib.util.find_spec("ray")
    assert package is not None and package.origin is not None
    schema = json.loads((Path(package.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    check = jsonschema.Draft7Validator(schema)
    config = documents(CLUSTER / "vm" / "cluster.yaml")[0]
    assert [error.message for error in check.iter_errors(config)] == []
    assert not check.is_valid({**config, "max_worker": 2})
    assert config["max_workers"] == len(config["provider"]["worker_ips"])


def test_ray_up_starts_ray_with_a_token_and_the_dashboard_on_loopback() -> None:
    config = documents(CLUSTER / "vm" / "cluster.yaml")[0]
    (_, head), (_, worker) = config["head_start_ray_commands"], config["worker_start_ray_commands"]
    assert "RAY_AUTH_MODE=token" in head and "RAY_AUTH_MODE=token" in worker
    assert "--dashboard-host=127.0.0.1" in head
    token = "~/.ray/auth_token"
    assert config["file_mounts"].pop(token) == token and f"chmod 600 {token}" in config["setup_commands"]
    for remote, local in config["file_mounts"].items():
        assert remote == f"~/tlearn/{local}" and (PROJECT / local).exists()


# --- Slurm


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(("name", "variables"), [("train", "DATA RUN"), ("score", "MODEL INPUT TABLE")])
def test_slurm_starts_one_ray_on_every_node_with_one_token(name: str, variables: str, tmp_path: Path) -> None:
    script = CLUSTER / "slurm" / f"{name}.sbatch"
    assert "\n#SBATCH --exclusive\n" in script.read_text()
    program(tmp_path / "bin", "scontrol", "printf 'node7\\nnode8\\n'")
    show = f"{sys.executable} -c 'import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))'"
    program(tmp_path / "bin", "srun", f'{show} "$@"; exit 6')
    environment = {
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ID": "31234567",
        "SLURM_CPUS_ON_NODE": "16",
        "RAY_AUTH_TOKEN": "another's",
    }
    unset = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True)
    assert unset.returncode and "expected" in unset.stderr
    environment |= {variable: f"/shared/{variable.lower()}" for variable in variables.split()}
    done = subprocess.run(["bash", str(script), "--json"], env=environment, capture_output=True, text=True)
    assert done.returncode == 6, done.stderr  # tlearn's exit code is the job's
    words, seen = json.loads(done.stdout)
    assert seen["RAY_AUTH_MODE"] == "token" and re.fullmatch("[0-9a-f]{64}", seen["RAY_AUTH_TOKEN"])
    assert int(seen["RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT"]) > 30
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

    ray, command = words[words.index("symmetric-run") + 1 : words.index("--")], words[words.index("--") + 1 :]
    context = symmetric_run.make_context("symmetric-run", list(ray), resilient_parsing=True)
    assert context.params["address"] == "node7:24567" and context.params["min_nodes"] == 2
    assert curate_and_validate_ray_start_args(ray) == ["--num-cpus", "16"]
    assert command[:3] == ["tlearn", name, "--json"] and command[-1] == "/shared/cache"


# --- One machine


def test_a_second_run_of_the_crontab_is_no_failure_and_a_failure_is_told(tmp_path: Path) -> None:
    held, release = tmp_path / "held", tmp_path / "release"
    waits = f"for _ in $(seq 400); do test -e {release} && break; sleep 0.05; done"
    program(tmp_path / "bin", "tlearn", f"mkdir {held} 2>/dev/null || {{ echo held; exit 75; }}\n{waits}\necho done")
    variables, command = crontab()
    assert variables["PATH"].startswith("/opt/tlearn/.venv/bin:")
    environment = {**variables, "PATH": f"{tmp_path}/bin:/usr/bin:/bin", "LOG": f"{tmp_path}/score.log"}

    def start() -> subprocess.Popen[str]:
        line = [variables["SHELL"], "-c", command]
        return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    nights = [start(), start()]
    deadline = time.monotonic() + 20
    while all(night.poll() is None for night in nights):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    release.touch()
    for night in nights:
        assert night.communicate(timeout=20)[0] == ""  # no output: no mail
        assert night.returncode == 0
    assert (tmp_path / "score.log").read_text().splitlines() == ["held", "done"]
    program(tmp_path / "bin", "tlearn", "echo 'tlearn: expected a folder' >&2; exit 3")
    failed = start()
    assert "tlearn: expected a folder" in failed.communicate(timeout=20)[0]
    assert failed.returncode == 3


def test_a_percent_sign_would_end_the_command_of_the_crontab() -> None:
    assert "%" not in crontab()[1]


def test_logs_are_rotated() -> None:
    assert (CLUSTER / "cron" / "logrotate").read_text().count(crontab()[0]["LOG"]) == 1


@pytest.fixture
def verify(tmp_path: Path) -> Callable[[Callable[[str], str]], str]:
    """What systemd says of the units after a change to the service."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")

    def run(change: Callable[[str], str]) -> str:
        for path in (CLUSTER / "cron").glob("tlearn-*"):
            # The program need not be where it will be installed.
            text = path.read_text().replace("/opt/tlearn/.venv/bin/tlearn", "/bin/true")
            (tmp_path / path.name).write_text(change(text) if path.name == "tlearn-score.service" else text)
        units = ["tlearn-score.timer", "tlearn-score.service", "tlearn-failed@x.service"]
        command = ["systemd-analyze", "verify", *(str(tmp_path / unit) for unit in units)]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stderr if str(tmp_path) in done.stderr or done.returncode else ""

    return run


def test_systemd_understands_the_units(verify: Callable[[Callable[[str], str]], str]) -> None:
    assert verify(lambda text: text) == ""
    assert "SuccessExitCode" in verify(lambda text: text.replace("SuccessExitStatus", "SuccessExitCode"))


def test_the_service_is_confined_and_tells_failures() -> None:
    assert service("SuccessExitStatus") == "75"
    assert service("OnFailure") == "tlearn-failed@%n.service"
    assert (service("User"), service("ProtectSystem"), service("ProtectHome")) == ("tlearn", "strict", "yes")
    assert service("ReadWritePaths").startswith("/srv/tlearn/scores") and "/srv/tlearn/scores/" in service("ExecStart")
    timer = (CLUSTER / "cron" / "tlearn-score.timer").read_text()
    assert "Persistent=true" in timer and "OnCalendar=" in timer


# --- All files


@pytest.mark.parametrize("path", sorted(CLUSTER.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CLUSTER)))
def test_every_document_parses(path: Path) -> None:
    assert documents(path)


def test_dashboards_listen_on_loopback_but_for_kubernetes() -> None:
    for path in CLUSTER.rglob("*"):
        if path.is_file() and KUBERNETES not in path.parents:
            assert "0.0.0.0" not in path.read_text(), path
