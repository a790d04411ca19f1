"""What lies in infra/ is what its readers take: checked with their own schemas, linters and parsers."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

import jsonschema
import promql_parser
import pytest
import yaml
from conftest import require, require_data

from pipelines.classes import ClassSet
from pipelines.config import LabelConfig, parse
from pipelines.config_cli import ENV_PREFIX
from pipelines.metrics_export import METRICS

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayCronJob": "raycronjobs"}
AWS = {
    "AWS_REGION": "eu-central-1",
    "AWS_ACCOUNT": "123456789012",
    "MS_AMI": "ami-0123456789abcdef0",
    "MS_BUCKET": "photos",
    "MS_REGISTRY": "123456789012.dkr.ecr.eu-central-1.amazonaws.com",
    "MS_IMAGE": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/maskstream:gpu",
    "MS_SECURITY_GROUP": "sg-0123456789abcdef0",
}


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def manifest(kind: str) -> dict[str, Any]:
    [found] = [one for path in (INFRA / "kuberay").glob("*.yaml") for one in documents(path) if one["kind"] == kind]
    return found


def walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)


def closed(schema: Any) -> Any:
    """A CRD's schema that refuses unknown fields, as the API server does, and knows Kubernetes' own type."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(value) for name, value in schema.items()}
    if isinstance(found.get("properties"), dict) and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    if found.get("x-kubernetes-int-or-string"):
        found["type"] = ["integer", "string"]
    return found


@cache
def crd(kind: str) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in Python takes many seconds for these
    text = (require_data() / "kuberay" / f"ray.io_{KINDS[kind]}.yaml").read_text()
    [version] = [one for one in yaml.load(text, loader)["spec"]["versions"] if one["name"] == "v1"]
    found: dict[str, Any] = closed(version["schema"]["openAPIV3Schema"])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_manifests_fit_their_custom_resource_definitions_to_the_last_field(kind: str) -> None:
    found = manifest(kind)
    check = jsonschema.Draft7Validator(crd(kind))
    assert not list(check.iter_errors(found))
    deep = [node for node in walk(found["spec"]) if "entrypoint" in node or "image" in node][-1]
    deep["misspelt"] = 1
    assert "misspelt" in next(check.iter_errors(found)).message


def test_the_cluster_asks_for_a_token_and_its_gpus_come_from_none_and_go() -> None:
    spec = manifest("RayCluster")["spec"]
    assert spec["authOptions"] == {"mode": "token"} and spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP" and "enableIngress" not in spec["headGroupSpec"]
    [gpu] = spec["workerGroupSpecs"]
    assert (gpu["minReplicas"], gpu["replicas"]) == (0, 0) and gpu["maxReplicas"] > 0
    [worker] = gpu["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    # The jobs ask for the whole group, a GPU for each actor: else nothing would make it grow.
    for name in ("run.yaml", "nightly.yaml"):
        execution = documents(INFRA / "kuberay/config" / name)[0]["execution"]
        assert execution == {"device": "cuda", "actors": gpu["maxReplicas"], "gpu_share": 1}
    for kind, script in (("RayJob", "label_corpus"), ("RayCronJob", "relabel_nightly")):
        job = manifest(kind)["spec"].get("jobTemplate", manifest(kind)["spec"])
        assert job["clusterSelector"] == {"ray.io/cluster": manifest("RayCluster")["metadata"]["name"]}
        assert f"/opt/maskstream/pipelines/{script}.py --config /shared/" in job["entrypoint"]


def test_the_operator_finds_the_dashboard_on_the_head_and_nobody_outside_does() -> None:
    spec = manifest("RayCluster")["spec"]
    groups = {"head": spec["headGroupSpec"], "worker": spec["workerGroupSpecs"][0]}
    ports = {name: group["template"]["spec"]["containers"][0]["ports"] for name, group in groups.items()}
    by_name = {name: {port["name"]: port["containerPort"] for port in found} for name, found in ports.items()}
    # Where a head declares ports, its service has these and no others.
    assert by_name["head"] == {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}
    assert by_name["worker"] == {"metrics": 8080}
    assert spec["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "0.0.0.0", "loopback is not its service's"
    among, jobs, metrics = manifest("NetworkPolicy")["spec"]["ingress"]
    assert among == {"from": [{"podSelector": {"matchLabels": {"ray.io/cluster": "maskstream"}}}]}
    assert [rule["ports"] for rule in (jobs, metrics)] == [
        [{"protocol": "TCP", "port": by_name["head"][name]}] for name in ("dashboard", "metrics")
    ]


def test_kustomize_puts_images_and_configs_in_their_places() -> None:
    require("kubectl", shutil.which("kubectl") is not None, "no kubectl on the PATH")
    done = subprocess.run(["kubectl", "kustomize", str(INFRA / "kuberay")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
    images = [node["image"] for node in walk(built["RayCluster"]) if "image" in node]
    assert images == ["registry.example.com/maskstream:cpu", "registry.example.com/maskstream:gpu"]
    assert set(built["ConfigMap"]["data"]) == {"run.yaml", "nightly.yaml", "classes.yaml"}
    mounted = {node["configMap"]["name"] for node in walk(built["RayCluster"]) if "configMap" in node}
    assert mounted == {built["ConfigMap"]["metadata"]["name"]}
    ports = [port["port"] for rule in built["NetworkPolicy"]["spec"]["ingress"] for port in rule.get("ports", [])]
    assert ports == [8265, 8080]


def test_the_configs_are_ones_that_the_jobs_take() -> None:
    config = parse(LabelConfig, ["--config", str(INFRA / "kuberay/config/run.yaml")], {})
    assert config.classes == "/shared/classes.yaml" and config.execution.gpu_share == 1
    assert len(ClassSet.load(str(INFRA / "kuberay/config/classes.yaml")).classes) == 3
    nightly = pytest.importorskip("pipelines.nightly.config", reason="the nightly job is not there")
    for path in (INFRA / "kuberay/config/nightly.yaml", INFRA / "schedule/nightly.yaml"):
        parse(nightly.NightlyConfig, ["--config", str(path)], {})


def filled(path: str) -> str:
    """A template of infra/aws as `envsubst` with the README's names leaves it."""
    text = Template((INFRA / "aws" / path).read_text()).safe_substitute(AWS)
    assert "${" not in text, "a variable that the README does not set"
    return text


def test_the_launcher_takes_the_aws_cluster_and_ec2_its_nodes() -> None:
    import botocore.session
    from botocore.validate import ParamValidator
    from ray.autoscaler._private.aws.config import _configure_security_group
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(filled("cluster.yaml"))
    validate_config(prepare_config(json.loads(json.dumps(config))))
    ec2 = botocore.session.get_session().get_service_model("ec2")
    instances = ec2.operation_model("RunInstances").input_shape
    for node in config["available_node_types"].values():
        report = ParamValidator().validate({**node["node_config"], "MinCount": 1, "MaxCount": 1}, instances)
        assert not report.has_errors(), report.generate_report()
    # The launcher adds SSH from everywhere to any group that it makes or fills; with this one it does nothing.
    assert _configure_security_group(json.loads(json.dumps(config))) == config
    readme = (INFRA / "README.md").read_text().replace("\\\n", "")
    rules = re.findall(r"authorize-security-group-ingress .*--group-id \$MS_SECURITY_GROUP +(.+)", readme)
    assert rules == ["--protocol tcp --port 22 --cidr $MY_IP/32", "--protocol all --source-group $MS_SECURITY_GROUP"]
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert config["available_node_types"]["gpu"]["min_workers"] == 0


def test_the_readme_sets_the_variables_of_the_templates_and_none_that_is_a_setting() -> None:
    readme = (INFRA / "README.md").read_text()
    exported = set(re.findall(r"(?:export |\d |-bucket )(\w+)=", readme))
    for path in ("cluster.yaml", "node-policy.json"):
        [names] = re.findall(rf"envsubst '(.+)' < infra/aws/{path}", readme)
        used = set(re.findall(r"\$\{(\w+)\}", (INFRA / "aws" / path).read_text()))
        assert {name[1:] for name in names.split()} == used <= exported
    # The jobs take each variable of their prefix for a setting, and refuse what is none.
    assert not [name for name in exported if name.startswith(ENV_PREFIX)]


def test_the_readme_adds_the_charts_that_it_installs_and_watches_one_kind_at_a_time() -> None:
    readme = (INFRA / "README.md").read_text()
    added = set(re.findall(r"helm repo add (\S+) https://", readme))
    assert {"kuberay", "prometheus-community"} == set(re.findall(r"helm install \S+ ([\w-]+)/", readme)) == added
    watched = re.findall(r"kubectl .*get (\S+) --watch", readme)
    assert watched and not [kinds for kinds in watched if "," in kinds], "kubectl refuses to watch several kinds"


def test_the_aws_role_allows_named_things_only() -> None:
    for statement in json.loads(filled("node-policy.json"))["Statement"]:
        actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        assert statement["Effect"] == "Allow" and not any(action.endswith(":*") or action == "*" for action in actions)
        if any(action.startswith(("s3:", "iam:")) for action in actions):
            assert statement["Resource"].startswith("arn:aws:")


def test_the_image_passes_its_linter_and_copies_what_the_builder_is_sent() -> None:
    dockerfile = INFRA / "docker/Dockerfile"
    hadolint = str(Path(sys.executable).parent / "hadolint")
    done = subprocess.run([hadolint, str(dockerfile)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    slip = subprocess.run([hadolint, "-"], input="FROM python\nRUN cd /x\n", capture_output=True, text=True)
    assert slip.returncode == 1 and "DL3006" in slip.stdout
    sent = {line[1:] for line in (INFRA / "docker/Dockerfile.dockerignore").read_text().split() if line[0] == "!"}
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", dockerfile.read_text(), re.M) for name in line.split()}
    assert copied == sent and all((ROOT / name).exists() for name in sent)
    text = dockerfile.read_text()
    assert re.search(r"^ENV .*RAY_AUTH_MODE=token", text, re.M)
    # What the launcher's head, in its container, speaks to its workers with.
    [installed] = re.findall(r"apt-get install -y --no-install-recommends (.+?) *\\", text)
    assert {"openssh-client", "rsync"} <= set(installed.split())
    # An index that replaces PyPI has none of the other pinned versions.
    assert all("--extra-index-url https://pypi.org/simple" in line for line in re.findall(r"--index-url .+", text))


def test_systemd_takes_the_service_and_the_timer(tmp_path: Path) -> None:
    require("systemd", shutil.which("systemd-analyze") is not None, "no systemd-analyze on the PATH")
    for path in (INFRA / "schedule").glob("maskstream-nightly.*"):
        # The one thing that is not on this machine: the installed project.
        text = path.read_text().replace("/opt/maskstream/.venv/bin/python", sys.executable)
        (tmp_path / path.name).write_text(text)
    units = sorted(str(path) for path in tmp_path.iterdir())
    verify = ["systemd-analyze", "verify", "--man=no", *units]
    done = subprocess.run(verify, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    service = tmp_path / "maskstream-nightly.service"
    service.write_text(service.read_text().replace("ProtectSystem=", "ProtectSystme="))
    assert "ProtectSystme" in subprocess.run(verify, capture_output=True, text=True).stderr


def test_timer_crontab_and_cron_job_mean_the_same_night_and_the_same_job() -> None:
    *settings, line = (INFRA / "schedule/crontab").read_text().strip().splitlines()
    minute, hour, *days, command = line.split(maxsplit=5)
    assert (minute, hour, days) == ("30", "1", ["*", "*", "*"]) and "%" not in command  # cron's word for a new line
    assert manifest("RayCronJob")["spec"]["schedule"] == f"{minute} {hour} * * *"
    assert "OnCalendar=*-*-* 01:30:00" in (INFRA / "schedule/maskstream-nightly.timer").read_text()
    service = (INFRA / "schedule/maskstream-nightly.service").read_text()
    [start] = re.findall(r"^ExecStart=/opt/maskstream/(.+)$", service, re.M)
    assert f"; cd /opt/maskstream && {start} " in command
    assert "RAY_AUTH_MODE=token" in settings and "Environment=RAY_AUTH_MODE=token" in service


def test_the_keys_of_a_shell_reach_the_file_and_the_job_of_cron(tmp_path: Path) -> None:
    [told] = re.findall(r"env \| grep \^AWS_.*environment'", (INFRA / "README.md").read_text())
    # sudo keeps nothing of the shell's environment.
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nexec env -i PATH="$PATH" "$@"\n')
    sudo.chmod(0o755)
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "a/b+c=="}
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["sh", "-c", told.replace("/etc/maskstream", str(tmp_path))], env=keys | path, check=True)
    file = tmp_path / "environment"
    assert file.stat().st_mode & 0o777 == 0o600
    assert set(file.read_text().split()) == {f"{name}={value}" for name, value in keys.items()}

    job = tmp_path / ".venv/bin/python"
    job.parent.mkdir(parents=True)
    job.write_text("#!/bin/sh\nenv\n")
    job.chmod(0o755)
    line = (INFRA / "schedule/crontab").read_text().strip().splitlines()[-1].split(maxsplit=5)[-1]
    line = line.replace("/opt/maskstream", str(tmp_path)).replace("/var/lib/maskstream", str(tmp_path))
    for expected in (keys, {}):
        subprocess.run(["/bin/sh", "-c", line], env=path, check=True)
        log = (tmp_path / "nightly.log").read_text().split()
        assert {one for one in log if one.startswith("AWS_")} == {f"{name}={value}" for name, value in expected.items()}
        file.unlink(missing_ok=True)
        (tmp_path / "nightly.log").unlink()


def board() -> list[str]:
    """Every expression of the Grafana board."""
    panels = json.loads((INFRA / "monitoring/grafana/boards/maskstream.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_every_expression_of_the_board_is_promql_over_metrics_that_there_are() -> None:
    exported = {f"ray_{name}" + "_total" * (kind == "Counter") for name, (kind, _, _) in METRICS.items()}
    shown = set()
    for expression in board():
        promql_parser.parse(expression)
        shown |= set(re.findall(r"\bray_maskstream_\w+", expression))
    assert shown == exported, "the board shows what is exported, all of it and nothing else"


def test_prometheus_scrapes_this_machine_only_and_the_pods_by_a_port_that_they_have() -> None:
    config = yaml.safe_load((INFRA / "monitoring/prometheus.yml").read_text())
    machine, cluster = config["scrape_configs"]
    service = (INFRA / "schedule/maskstream-nightly.service").read_text()
    [port] = re.findall(r"--execution\.metrics_port (\d+)$", service, re.M)
    assert machine["static_configs"] == [{"targets": [f"127.0.0.1:{port}"]}]
    assert cluster["file_sd_configs"] == [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]
    [monitor] = documents(INFRA / "monitoring/podmonitor.yaml")
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    for group in [node for node in walk(manifest("RayCluster")) if "rayStartParams" in node]:
        [container] = group["template"]["spec"]["containers"]
        assert {"name": endpoint["port"], "containerPort": 8080} in container["ports"]
        assert group["rayStartParams"]["metrics-export-port"] == "8080"
    [relabel] = endpoint["metricRelabelings"]
    assert all(c["metric_relabel_configs"][0]["regex"] == relabel["regex"] for c in config["scrape_configs"])
    names = {name for expression in board() for name in re.findall(r"\bray_\w+", expression)}
    assert all(re.fullmatch(relabel["regex"], name) for name in names)


def test_no_file_holds_a_secret_and_every_file_that_the_readme_names_is_there() -> None:
    assigned = r"(?i:password|secret_access_key|auth_token)[\"']?\s*[=:]\s*\w"
    secret = re.compile(rf"AKIA[0-9A-Z]{{16}}|BEGIN [A-Z ]*PRIVATE|{assigned}")
    for path in (one for one in INFRA.rglob("*") if one.is_file() and one.suffix != ".png"):
        assert not secret.search(path.read_text()), path
    assert secret.search("AWS_SECRET_ACCESS_KEY=abc") and secret.search("auth_token: abc")
    named = re.findall(r"\binfra/[\w./-]*\w", (INFRA / "README.md").read_text())
    assert named and not [name for name in named if not (ROOT / name).exists()]
