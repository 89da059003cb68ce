# ruff: noqa: E501 - manifests, one a line
"""Manifests as others write them: `inferstack policy check` finds what is wrong in each, and falls over none."""

import json
from pathlib import Path

import pytest

from inferstack.cli import run

DIGEST = "@sha256:" + "1" * 64
FOUND = {
    "fields in another order, the kind last": (
        "spec: {template: {spec: {containers: [{image: nginx:latest}]}}}\nmetadata: {namespace: a, name: b}\nkind: Deployment\napiVersion: apps/v1\n",
        {"image-digest", "pod-non-root"},
    ),
    "an init container": (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: a}\n"
        f"spec:\n  initContainers: [{{name: i, image: busybox:1, securityContext: {{privileged: true}}}}]\n  containers: [{{name: c, image: r{DIGEST}}}]\n",
        {"image-digest", "pod-privileged"},
    ),
    "an ephemeral container": (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: a}\n"
        f"spec:\n  containers: [{{name: c, image: r{DIGEST}}}]\n  ephemeralContainers: [{{name: e, image: busybox, securityContext: {{privileged: true}}}}]\n",
        {"image-digest", "pod-privileged"},
    ),
    "a list": (
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: s, namespace: a}, spec: {type: NodePort}}\n",
        {"service-public"},
    ),
    "a list within a list": (
        "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {hostPID: true}}]}]\n",
        {"pod-host-namespaces", "namespace-default"},
    ),
    "a list of one kind, whose items name none": (
        "apiVersion: apps/v1\nkind: DeploymentList\nitems: [{metadata: {name: d}, spec: {template: {spec: {hostNetwork: true}}}}]\n",
        {"pod-host-namespaces"},
    ),
    "a cron job": (
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: c, namespace: a}\n"
        "spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: x, image: a:b, env: [{name: API_KEY, value: abc}]}]}}}}}\n",
        {"image-digest", "secret-in-plain-text", "pod-escalation"},
    ),
    "a job": (
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j, namespace: a}\nspec: {template: {spec: {volumes: [{name: h, hostPath: {path: /}}]}}}\n",
        {"pod-host-path"},
    ),
    "a stateful set": (
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: s, namespace: a}\n"
        "spec: {template: {spec: {containers: [{image: x, securityContext: {capabilities: {drop: [all], add: [SYS_ADMIN]}}}]}}}\n",
        {"pod-capabilities"},
    ),
    "a daemon set": (
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: s, namespace: a}\nspec: {template: {spec: {containers: [{ports: [{hostPort: '80'}]}]}}}\n",
        {"pod-host-port"},
    ),
    "a replication controller": (
        "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: s, namespace: a}\nspec: {template: {spec: {containers: [{image: x}]}}}\n",
        {"image-digest"},
    ),
    "anchors and merges": (
        "apiVersion: v1\nkind: List\nitems:\n- &first {apiVersion: v1, kind: Service, metadata: {name: a, namespace: n}, spec: &loud {type: LoadBalancer}}\n"
        "- {<<: *first, metadata: {name: b, namespace: n}, spec: {<<: *loud, selector: {a: b}}}\n",
        {"service-public"},
    ),
    "several documents, the last one bad": (
        "---\n---\n# nothing\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: n}\n---\n"
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: d, namespace: n}\ndata: {db: 'postgres://user:pass@host/db'}\n",
        {"secret-in-config-map"},
    ),
    "no metadata and no spec": ("apiVersion: apps/v1\nkind: Deployment\n", {"namespace-default"}),
    "wrong types": (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: [a]\nspec: {template: {spec: {containers: {image: x}, hostIPC: true}}}\n",
        {"pod-host-namespaces"},
    ),
    "numbers and dates as keys and names": (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: 2026-11-21, namespace: 7, labels: {1: 2, 2026-01-01: x}}\nspec: {hostPID: yes}\n",
        {"pod-host-namespaces"},
    ),
    "a digest that is none": (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: n}\nspec: {containers: [{image: 'r@sha256:" + "x" * 64 + "'}]}\n",
        {"image-digest"},
    ),
    "a byte order mark and line ends of another system": (
        "\ufeffapiVersion: v1\r\nkind: Service\r\nmetadata: {name: s, namespace: n}\r\nspec: {type: NodePort}\r\n",
        {"service-public"},
    ),
    "a role over everything": (
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: r}\n"
        "rules: [{apiGroups: ['*'], resources: ['*'], verbs: ['*']}, {resources: [secrets], verbs: [get]}, {verbs: [[]], resources: {}}]\n",
        {"role-wildcard", "role-secrets"},
    ),
    "JSON": (
        '{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "n"}, "spec": {"hostPID": true}}',
        {"pod-host-namespaces"},
    ),
    "pods of a kind that no rule knows": (
        "apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nmetadata: {name: r, namespace: n}\nspec: {template: {spec: {containers: [{image: x}]}}}\n",
        {"workload-unknown"},
    ),
    "a kind in small letters": (
        "apiVersion: apps/v1\nkind: deployment\nmetadata: {name: d, namespace: n}\nspec: {template: {spec: {containers: [{image: x}]}}}\n",
        {"workload-unknown"},
    ),
    "containers in a mapping": (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: n}\nspec: {containers: {c: {image: x}}}\n",
        {"workload-unknown"},
    ),
}
FOUND |= {
    "numbers that are none": (
        "apiVersion: v1\nkind: List\nitems:\n"
        "- {apiVersion: v1, kind: Pod, metadata: {name: p, namespace: n}, spec: {containers: [{image: x, resources: {limits: {nvidia.com/gpu: .inf}}}]}}\n"
        "- {apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r}, spec: {rules: [{backendRefs: [{name: x}], timeouts: {request: 1.2.3s}}]}}\n"
        "- {apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: b}, spec: {minAvailable: nan%, maxUnavailable: 0}}\n"
        f"- {{apiVersion: apps/v1, kind: Deployment, metadata: {{name: d}}, spec: {{replicas: 1{'0' * 400}}}}}\n",
        {"gpu-whole", "route-timeout", "disruption-budget-blocks"},
    ),
}
REFUSED = {
    "deeper than any object": "apiVersion: v1\nkind: Pod\nspec: " + "{a: " * 200 + "}" * 200 + "\n",
    "a list whose items are a number": "apiVersion: v1\nkind: List\nitems: 5\n",
    "a kind of nothing": "apiVersion: v1\nkind: ' '\n",
    "merges that multiply": "a: &a {k1: 1, k2: 2, k3: 3}\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{', '.join([f'*{chr(97 + i)}'] * 9)}]}}\n" for i in range(9)),
    "the word for what is not known yet, which rules pass by": "apiVersion: v1\nkind: Pod\nspec: {hostPID: '[unknown]'}\n",
    "a character that no text has": "apiVersion: v1\nkind: Pod\0\n",
    "a key written twice, of which one would hide": "apiVersion: v1\nkind: Pod\nspec: {hostPID: true, hostPID: false}\n",
    "YAML that ends too soon": "apiVersion: v1\nkind: {",
    "a template that was not rendered": "apiVersion: v1\nkind: {{ .Values.kind }}\n",
    "an object of a language": "apiVersion: v1\nkind: Pod\nmetadata: !!python/object/apply:os.system [true]\n",
    "a day that does not exist": "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {day: 2026-13-45}}\n",
    "an anchor that names itself": "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: &a {b: *a}\n",
    "anchors that multiply": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(8))
    + "apiVersion: v1\nkind: Pod\n",
    "too deep": "apiVersion: v1\nkind: Pod\nspec: " + "[" * 5000 + "]" * 5000 + "\n",
    "no kind": "apiVersion: v1\nmetadata: {name: x}\n",
    "a kind that is no text": "apiVersion: v1\nkind: [Pod]\n",
    "bytes that are no text": "\udcff\udcfe",
    "a list of no objects": "apiVersion: v1\nkind: List\nitems: [Pod, 7]\n",
    "nothing at all": "",
    "empty documents": "---\n---\n",
}


@pytest.mark.parametrize("name", FOUND)
def test_what_is_wrong_is_found(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, rules = FOUND[name]
    (tmp_path / "m.yaml").write_bytes(text.encode())
    code = run(["policy", "check", str(tmp_path), "--json"])
    shown = capsys.readouterr()
    assert not shown.err
    assert code == 3, shown.out
    assert rules <= {finding["rule"] for finding in json.loads(shown.out)["findings"]}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_judged_is_an_error_that_names_the_file_and_never_passes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.yaml"
    file.write_bytes(REFUSED[name].encode(errors="surrogateescape"))
    assert run(["policy", "check", str(tmp_path)]) == 2
    said, advice = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {file}" if REFUSED[name].strip("-\n") else f"error: no Kubernetes objects in {tmp_path}")
    assert advice.startswith("  next: ")


def test_what_cannot_be_judged_is_named_by_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: n}\n"
    for text, line, says in (
        (good + "---\n# a note\nkind: Pod\n", 6, "holds a document without"),
        (good + "data:\n  a: 1\n  a: 2\n", 6, "cannot be read as YAML: key 'a' stands here a second time"),
        (good + "data: {{ .Values.data }}\n", 4, "cannot be read as YAML"),
        (good + "# \xff\n", 4, "is no text in UTF-8"),
    ):
        file = tmp_path / "m.yaml"
        file.write_bytes(text.encode("latin-1"))
        assert run(["policy", "check", str(file)]) == 2
        said = capsys.readouterr().err
        assert f"{file}:{line} {says}" in said
        assert ("helm template" in said) == ("{{" in text)


def test_links_are_followed_once_and_one_that_leads_nowhere_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
    (outside / "pod.yaml").write_text("{apiVersion: v1, kind: Pod, spec: {hostPID: true}}")
    (inside / "there").symlink_to(outside)
    (inside / "again.yaml").symlink_to(outside / "pod.yaml")
    (outside / "back").symlink_to(inside)
    assert run(["policy", "check", str(inside), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["resources"] == 1
    (inside / "lost.yaml").symlink_to(tmp_path / "nowhere")
    assert run(["policy", "check", str(inside)]) == 2
    assert "lost.yaml" in capsys.readouterr().err


def test_a_name_cannot_write_lines_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "x\\n0 resources, 0 findings\\e[2J"
    (tmp_path / "m.yaml").write_text(f'{{apiVersion: v1, kind: Pod, metadata: {{name: "{name}"}}, spec: {{hostPID: true}}}}')
    assert run(["policy", "check", str(tmp_path)]) == 3
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "0 resources, 0 findings" not in shown.splitlines()


@pytest.mark.parametrize(
    "text", ['{"apiVersion": "v1", "kind": "Pod", "kind": "List"}', '{"apiVersion": "v1", "kind": "\\ud800"}', "{", "[]"]
)
def test_json_that_cannot_be_judged_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.json").write_text(text)
    assert run(["policy", "check", str(tmp_path)]) == 2
    assert "m.json:1 " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.json", '{\n\t"apiVersion": "v1",\n\t"kind": "Pod",\n\t"spec": {"hostPID": true}\n}\n'),
        ("M.YAML", "{apiVersion: v1, kind: Pod, spec: {hostPID: true}}"),
    ],
)
def test_json_with_tabs_and_names_in_capitals_are_read(name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_text(text)
    assert run(["policy", "check", str(tmp_path), "--json"]) == 3
    assert "pod-host-namespaces" in capsys.readouterr().out
