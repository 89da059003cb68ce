"""The in-process monitor: a program sees a working engine, and the plan sees what the program asked for."""

import threading
from pathlib import Path

import pulumi
import pulumi_kubernetes as k8s
import pytest

from inferstack.program.run import ProgramFailed, run_function, run_stack


def test_parents_providers_protection_and_secrets_are_recorded() -> None:
    def program() -> None:
        class Part(pulumi.ComponentResource):
            def __init__(self, name: str, opts: pulumi.ResourceOptions | None = None) -> None:
                super().__init__("test:index:Part", name, {}, opts)
                self.secret = k8s.core.v1.Secret(
                    f"{name}-secret",
                    string_data={"password": pulumi.Output.secret("hunter2")},
                    opts=pulumi.ResourceOptions(parent=self, ignore_changes=["metadata"]),
                )
                self.register_outputs({})

        provider = k8s.Provider("own", context="here")
        first = Part("part", pulumi.ResourceOptions(provider=provider, protect=True))
        k8s.core.v1.ConfigMap("after", data={"a": "b"}, opts=pulumi.ResourceOptions(depends_on=[first], provider=provider))
        pulumi.export("answer", {"number": 42, "hidden": pulumi.Output.secret("x")})

    run = run_function(program)
    found = {item.name: item for item in run.resources}
    secret = found["part-secret"]
    assert run.parent_name(secret) == "part"
    assert run.parent_name(found["part"]) is None
    assert secret.provider.startswith(f"{found['own'].urn}::")
    assert secret.protect
    assert secret.ignore_changes == ("metadata",)
    assert secret.secrets == {"stringData"}
    assert "hunter2" not in str(run)
    assert secret.urn in found["after"].dependencies
    assert run.outputs == {"answer": {"number": 42, "hidden": "[secret]"}}


@pytest.mark.parametrize(("preview", "expected"), [(True, "[unknown]"), (False, "id is first-id")])
def test_identifiers_are_unknown_in_a_preview_only(preview: bool, expected: str) -> None:
    def program() -> None:
        first = k8s.core.v1.ConfigMap("first", data={})
        k8s.core.v1.ConfigMap("second", data={"text": pulumi.Output.concat("id is ", first.id)})

    run = run_function(program, preview=preview)
    assert next(item for item in run.resources if item.name == "second").inputs["data"]["text"] == expected


def test_a_resource_made_inside_apply_is_seen() -> None:
    def program() -> None:
        first = k8s.core.v1.ConfigMap("first", data={})
        first.metadata.apply(lambda _: k8s.core.v1.ConfigMap("second", data={}))

    assert {item.name for item in run_function(program).resources} == {"first", "second"}


def test_the_same_name_twice_fails_as_it_does_in_the_engine() -> None:
    def program() -> None:
        k8s.core.v1.ConfigMap("twice", data={})
        k8s.core.v1.ConfigMap("twice", data={})

    with pytest.raises(Exception, match="Duplicate resource URN"):
        run_function(program)


def test_an_error_in_apply_fails_the_run() -> None:
    def program() -> None:
        def fail(_: object) -> None:
            raise ValueError("wrong in apply")

        pulumi.export("x", k8s.core.v1.ConfigMap("first", data={}).data.apply(fail))

    with pytest.raises(Exception, match="wrong in apply"):
        run_function(program)


def test_a_refusal_of_the_program_carries_its_message() -> None:
    def program() -> None:
        raise pulumi.RunError("the environment is wrong")

    with pytest.raises(ProgramFailed, match="the environment is wrong"):
        run_function(program)


def test_nothing_of_a_run_stays_behind() -> None:
    before = threading.active_count()
    for _ in range(3):
        run_function(lambda: None)
    assert threading.active_count() <= before + 1


def test_stack_references_and_functions_are_answered(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").write_text("name: small\nruntime: python\n")
    (tmp_path / "Pulumi.one.yaml").write_text("config:\n  small:size: 3\n  other:list: [1, 2]\n")
    (tmp_path / "__main__.py").write_text(
        "import pulumi\n"
        "other = pulumi.StackReference('organization/small/base')\n"
        "pulumi.export('address', other.require_output('address'))\n"
        "pulumi.export('size', pulumi.Config().require_int('size'))\n"
        "pulumi.export('list', pulumi.Config('other').require_object('list'))\n"
    )
    run = run_stack(tmp_path, "one", references={"organization/small/base": {"address": "10.0.0.1"}})
    assert run.outputs == {"address": "10.0.0.1", "size": 3, "list": [1, 2]}
