"""NetworkPolicies enforced on the node, because the network plugin here (ptp) has no means of its own.

    python -m machine.policies FOLDER        (a program of the machine, inside its network)

Every connection to, from and between pods passes the node's FORWARD or INPUT chain. For each pod that a policy isolates there is one
chain per direction that returns for what is allowed and rejects the rest. What the node itself opens (probes, the Gateway) is always
let in, as the API says of a pod's own node. https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

import ipaddress
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import client
from machine.layout import load

Object = dict[str, Any]
_TOP = "POLICIES"
_HOOKS = ("FORWARD", "INPUT")
_DIRECTIONS = {"Ingress": ("I", "from", "-s"), "Egress": ("E", "to", "-d")}
"""By policy type: letter in the chain's name, field of the peers, and the side of a packet on which a peer stands."""


@dataclass(frozen=True)
class World:
    """What policies are about, as the API server has it."""

    policies: Sequence[Object]
    pods: Sequence[Object]
    namespaces: Sequence[Object]

    @property
    def running(self) -> list[Object]:
        """Pods with an address of their own that have not ended."""
        found = [pod for pod in self.pods if pod["status"].get("podIP") and not pod["spec"].get("hostNetwork")]
        return [pod for pod in found if pod["status"].get("phase") not in ("Succeeded", "Failed")]


def table(world: World) -> str:
    """The filter table's part for all policies, as `iptables-restore --noflush` takes it. Pure."""
    chains: dict[str, list[str]] = {_TOP: [f"-A {_TOP} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"]}
    for pod in world.running:
        address = pod["status"]["podIP"]
        for kind, (letter, field, side) in _DIRECTIONS.items():
            chosen = [one for one in world.policies if kind in _types(one) and _selects_pod(one, pod)]
            if not chosen:
                continue
            name = f"NP-{letter}-{address}"
            of_pod = "-d" if kind == "Ingress" else "-s"
            chains[_TOP].append(f"-A {_TOP} {of_pod} {address} -j {name}")
            lines = {
                line
                for one in chosen
                for rule in one["spec"].get(kind.lower()) or ()
                for line in _allowed(world, one, pod, rule, field, side)
            }
            chains[name] = [*(f"-A {name} {line} -j RETURN" for line in sorted(lines)), f"-A {name} -j REJECT"]
    text = ["*filter", *(f":{name} - [0:0]" for name in chains), *(line for lines in chains.values() for line in lines), "COMMIT", ""]
    return "\n".join(text)


def _types(policy: Object) -> list[str]:
    spec = policy["spec"]
    return list(spec.get("policyTypes") or (["Ingress", "Egress"] if "egress" in spec else ["Ingress"]))


def _selects_pod(policy: Object, pod: Object) -> bool:
    same = policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return same and selects(policy["spec"].get("podSelector") or {}, pod["metadata"].get("labels", {}))


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector takes ``labels``; an empty one takes all."""
    for one in selector.get("matchExpressions", ()):
        value, values = labels.get(one["key"]), one.get("values", ())
        fits = {"In": value in values, "NotIn": value not in values, "Exists": value is not None, "DoesNotExist": value is None}
        if not fits[one["operator"]]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def _allowed(world: World, policy: Object, pod: Object, rule: Object, field: str, side: str) -> Iterator[str]:
    """Matches of what one rule lets through."""
    peers = rule.get(field)
    if not peers:
        yield from _ports(rule, [pod] if field == "from" else [], "")
        return
    for peer in peers:
        if "ipBlock" in peer:
            for network in _networks(peer["ipBlock"]):
                yield from _ports(rule, [pod] if field == "from" else [], f"{side} {network} ")
            continue
        for other in world.running:
            if _is_peer(world, policy, peer, other):
                yield from _ports(rule, [pod if field == "from" else other], f"{side} {other['status']['podIP']} ")


def _is_peer(world: World, policy: Object, peer: Object, pod: Object) -> bool:
    namespace = pod["metadata"]["namespace"]
    if "namespaceSelector" in peer:
        labels = next((one["metadata"].get("labels", {}) for one in world.namespaces if one["metadata"]["name"] == namespace), {})
        if not selects(peer["namespaceSelector"] or {}, labels):
            return False
    elif namespace != policy["metadata"]["namespace"]:
        return False
    return selects(peer.get("podSelector") or {}, pod["metadata"].get("labels", {}))


def _networks(block: Object) -> list[str]:
    """The block without its exceptions."""
    networks: list[Any] = [ipaddress.ip_network(block["cidr"])]
    for text in block.get("except", ()):
        hole = ipaddress.ip_network(text)
        networks = [part for one in networks for part in (one.address_exclude(hole) if hole.subnet_of(one) else [one])]
    return [str(one) for one in networks if one.version == 4]


def _ports(rule: Object, destinations: Sequence[Object], peer: str) -> Iterator[str]:
    if not rule.get("ports"):
        yield peer.strip() or "-p all"
        return
    for port in rule["ports"]:
        protocol, number = port.get("protocol", "TCP").lower(), port.get("port")
        numbers: Iterable[Any] = _named(number, destinations) if isinstance(number, str) else [number]
        for one in numbers:
            span = f"{one}:{port['endPort']}" if "endPort" in port else one
            yield f"{peer}-p {protocol}" + (f" --dport {span}" if one is not None else "")


def _named(name: str, pods: Sequence[Object]) -> list[int]:
    return sorted(
        {p["containerPort"] for pod in pods for c in pod["spec"]["containers"] for p in c.get("ports", ()) if p.get("name") == name}
    )


def enforce(text: str) -> None:
    """Replace the rules of the last time at once. Raises CalledProcessError."""
    old = subprocess.run(["iptables", "-w", "-S"], capture_output=True, text=True, check=True).stdout
    stale = {line.split()[1] for line in old.splitlines() if line.startswith("-N NP-")} - {
        line[1:].split()[0] for line in text.splitlines() if line[:4] == ":NP-"
    }
    gone = "".join(f"-F {name}\n-X {name}\n" for name in sorted(stale))
    begin, commit, _ = text.rpartition("COMMIT")
    declared = "".join(f":{name} - [0:0]\n" for name in sorted(stale))
    head, _, body = begin.partition("\n")
    subprocess.run(["iptables-restore", "-w", "--noflush"], input=f"{head}\n{declared}{body}{gone}{commit}\n", text=True, check=True)
    for hook in _HOOKS:
        if f"-A {hook} -j {_TOP}" not in old:
            subprocess.run(["iptables", "-w", "-I", hook, "1", "-j", _TOP], check=True)


def main(folder: Path) -> None:
    """Look every second; what the API server does not say leaves the last rules in force."""
    machine = load(folder)
    assert machine, folder
    before = ""
    while True:
        try:
            kinds = ("/apis/networking.k8s.io/v1/networkpolicies", "/api/v1/pods", "/api/v1/namespaces")
            text = table(World(*(client.read(machine, path)["items"] for path in kinds)))
            if text != before:
                enforce(text)
                before = text
        except (OSError, LookupError, subprocess.CalledProcessError) as error:
            print(f"policies: {error}", file=sys.stderr, flush=True)
        time.sleep(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
