"""Where a model's files come from: installed packages and files as they are, remote ones downloaded into the weight cache."""

import hashlib
import os
from pathlib import Path

from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.lifecycle.download import Report, fetch, verify

REMOTE = ("hf", "gs", "s3", "abfss")


def cache_folder(setting: str | None) -> Path:
    """The weight cache: the setting, `$INFERSTACK_CACHE`, `$XDG_CACHE_HOME/inferstack` or `~/.cache/inferstack`."""
    if setting is not None:
        return Path(setting)
    if explicit := os.environ.get("INFERSTACK_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "inferstack"


def local_source(source: str, digest: str | None, cache: Path, report: Report) -> str:
    """A `package://` or `file://` source as it is; a remote one as the `file://` of its download. Raises ModelLoadError.

    `digest` is checked right after the download; the engine checks it again on what it opens.
    """
    scheme = source.partition("://")[0]
    if scheme not in REMOTE:
        return source
    try:
        return _downloaded(source, digest, cache, report)
    except ModelLoadError as error:
        raise ModelLoadError(f"{source}: {error}") from None


def _downloaded(source: str, digest: str | None, cache: Path, report: Report) -> str:
    from inferstack_runtime.lifecycle.remotes import remote_of

    folder = cache / "downloads" / hashlib.sha256(source.encode()).hexdigest()[:32]
    paths = fetch(remote_of(source), folder, report)
    weights = [path for path in paths if path.suffix in (".gguf", ".safetensors")]
    if not weights:
        raise ModelLoadError(f"no .gguf or .safetensors file among {len(paths)} files")
    if digest is not None and len(weights) == 1:
        report("verifying", 1.0)
        verify(weights[0], digest)
    if len(weights) == 1 and weights[0].suffix == ".gguf":
        return f"file://{weights[0]}"
    return f"file://{folder}"


def weight_bytes(source: str, cache: Path) -> int:
    """Bytes of a model's weight files that are on this machine already; 0 where they are not. Used to plan memory before a load."""
    scheme, _, rest = source.partition("://")
    if scheme == "package":
        from importlib.metadata import PackageNotFoundError, files

        try:
            found = [Path(str(file.locate())) for file in files(rest) or [] if file.suffix in (".gguf", ".safetensors")]
        except PackageNotFoundError:
            return 0
    else:
        root = Path(rest) if scheme == "file" else cache / "downloads" / hashlib.sha256(source.encode()).hexdigest()[:32]
        found = [root] if root.is_file() else [path for path in root.rglob("*") if path.suffix in (".gguf", ".safetensors")]
    return sum(path.stat().st_size for path in found if path.is_file())
