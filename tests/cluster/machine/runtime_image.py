"""The runtime's image, built from runtime/Dockerfile by scripts/image and kept until something that goes into it changes."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

REFERENCE = "localhost/inferstack-runtime:machine"
_INGREDIENTS = ("runtime/**/*", "locks/runtime.txt", "locks/build.txt", "locks/models.txt", "scripts/image", "scripts/image-base")
_KEPT = 3
"""Archives of the last builds; each is as large as the image."""


class CannotBuildImage(RuntimeError):
    """The image cannot be built on this machine; the text says why."""


def archive(root: Path, cache: Path, say: Callable[[str], None]) -> Path:
    """The image with its small model as an archive, from the cache or built now (minutes). Raises CannotBuildImage."""
    target = cache / f"runtime-{key(root)}.tar"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".part")
    unfinished.unlink(missing_ok=True)
    say("building the runtime's image")
    base = [] if _docker_answers() else ["--base", _run(root, "scripts/image-base").strip()]
    _run(root, "scripts/image", "--target", "bundled", "--tag", REFERENCE, *base, "--archive", str(unfinished))
    unfinished.rename(target)
    for old in sorted(cache.glob("runtime-*.tar"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        old.unlink()
    return target


def key(root: Path) -> str:
    """Changes with every file that the image is made from."""
    digest = hashlib.sha256()
    for pattern in _INGREDIENTS:
        for path in sorted(root.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts and ".egg-info" not in str(path) and path.suffix != ".so":
                digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _docker_answers() -> bool:
    return bool(shutil.which("docker")) and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def _run(root: Path, script: str, *arguments: str) -> str:
    environment = dict(os.environ)
    certificates = os.environ.get("SSL_CERT_FILE")
    if certificates and Path(certificates).exists():  # of a network that inspects TLS; the build needs them as much as this process does
        environment.setdefault("INFERSTACK_CA", certificates)
    done = subprocess.run([str(root / script), *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuildImage(f"{script} failed: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout
