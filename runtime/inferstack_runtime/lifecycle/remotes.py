"""Remote model sources: Hugging Face over HTTP, object stores of the clouds through obstore."""

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.lifecycle.download import CannotResume, Remote, RemoteFile, RemoteTrouble, StaleTag

_CHUNK = 1024 * 1024
_SECONDS = 30
_HUB_HINTS = {
    401: "; set HF_TOKEN for a model that is not public",
    403: "; set HF_TOKEN to a token that may read this model",
    404: "; check the names of repository, revision and file",
}
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine or pod a role that may read it",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or give the machine or pod a service account that may read it",
    "abfss": "set AZURE_STORAGE_ACCOUNT_KEY, or give the machine or pod an identity that may read it",
}
_WANTED = (".safetensors", ".json", ".model", ".jinja", ".txt")


def remote_of(source: str) -> Remote:
    """The remote of an `hf://`, `gs://`, `s3://` or `abfss://` source; raises ModelLoadError for a form that is not understood.

    Errors do not repeat the source: who asked for it says it.
    """
    scheme, _, rest = source.partition("://")
    if scheme == "hf":
        return HuggingFace(rest)
    return ObjectStore(source)


class _SameMethod(urllib.request.HTTPRedirectHandler):
    """Follows the hub's redirects with the method that was asked: Python would make a GET of a HEAD, and with it begin a download."""

    def redirect_request(self, req: urllib.request.Request, *answer: Any) -> urllib.request.Request | None:
        followed = super().redirect_request(req, *answer)
        if followed is not None:
            followed.method = req.get_method()
        return followed


_OPENER = urllib.request.build_opener(_SameMethod)


class HuggingFace:
    """`ORG/REPO[@REVISION][/FILE]` of the hub at `$HF_ENDPOINT`; `$HF_TOKEN`, or the file `$HF_TOKEN_PATH`, opens what is not public."""

    def __init__(self, rest: str) -> None:
        parts = rest.strip("/").split("/")
        if len(parts) < 2 or not all(parts):
            raise ModelLoadError("expected hf://ORG/REPO, hf://ORG/REPO@REVISION or hf://ORG/REPO/FILE")
        repository, _, revision = parts[1].partition("@")
        self._repository = f"{parts[0]}/{repository}"
        self._revision = revision or "main"
        self._file = "/".join(parts[2:])
        self._base = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")

    def files(self) -> Sequence[RemoteFile]:
        if self._file:
            return [self._describe(self._file)]
        url = f"{self._base}/api/models/{self._repository}/revision/{urllib.parse.quote(self._revision, safe='')}"
        with self._open(url, "GET") as answer:
            listed = json.loads(answer.read(16 * _CHUNK))
        names = [entry["rfilename"] for entry in listed.get("siblings", [])]
        wanted = [name for name in names if name.endswith(_WANTED) and "/" not in name]
        gguf = [name for name in names if name.endswith(".gguf")]
        if not any(name.endswith(".safetensors") for name in wanted):
            if len(gguf) != 1:
                raise ModelLoadError(
                    f"expected .safetensors files or one .gguf file; the repository has {', '.join(gguf) or 'none'}: name one"
                )
            wanted = gguf
        return [self._describe(name) for name in wanted]

    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        headers = {"range": f"bytes={offset}-"} if offset else {}
        if offset and file.tag:
            headers["if-match"] = f'"{file.tag}"'
        if offset and offset == file.size:
            return
        with self._open(self._url(file.name), "GET", headers) as answer:
            if offset and not _begins_at(answer, offset):
                raise CannotResume
            tag = _tag(answer.headers)
            if file.tag is not None and tag is not None and tag != file.tag:
                raise StaleTag
            try:
                while chunk := answer.read(_CHUNK):
                    yield chunk
            except (HTTPException, OSError) as error:
                raise RemoteTrouble(str(error) or type(error).__name__) from None

    def _describe(self, name: str) -> RemoteFile:
        with self._open(self._url(name), "HEAD") as answer:
            length = answer.headers.get("x-linked-size") or answer.headers.get("content-length")
            return RemoteFile(name, int(length) if length else None, _tag(answer.headers))

    def _url(self, name: str) -> str:
        return f"{self._base}/{self._repository}/resolve/{urllib.parse.quote(self._revision, safe='')}/{urllib.parse.quote(name)}"

    def _open(self, url: str, method: str, headers: dict[str, str] | None = None) -> Any:
        request = urllib.request.Request(url, headers=headers or {}, method=method)  # noqa: S310 (the endpoint is the operator's)
        token = _token()
        if token:
            request.add_unredirected_header("authorization", f"Bearer {token}")
        try:
            return _OPENER.open(request, timeout=_SECONDS)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 412:
                    raise StaleTag from None
                if error.code == 416:
                    raise CannotResume from None
                if error.code in (429, 500, 502, 503, 504):
                    raise RemoteTrouble(f"{url}: HTTP {error.code}") from None
                hint = _HUB_HINTS.get(error.code, "")
                raise ModelLoadError(f"{url}: HTTP {error.code}{hint}") from None
        except (urllib.error.URLError, HTTPException) as error:
            raise RemoteTrouble(f"{url}: {error}") from None


def _token() -> str | None:
    """The hub's token, as its own library finds it: `$HF_TOKEN`, else the file `$HF_TOKEN_PATH`; None where neither has one."""
    if token := os.environ.get("HF_TOKEN"):
        return token
    try:
        return Path(os.environ["HF_TOKEN_PATH"]).read_text(encoding="utf-8").strip() or None
    except (KeyError, OSError):
        return None


def _begins_at(answer: Any, offset: int) -> bool:
    """Whether a server sends the part that was asked for."""
    return answer.status == 206 and str(answer.headers.get("content-range", f"bytes {offset}-")).startswith(f"bytes {offset}-")


def _tag(headers: Any) -> str | None:
    tag = headers.get("x-linked-etag") or headers.get("etag")
    return tag.strip().removeprefix("W/").strip('"') if tag else None


class ObjectStore:
    """A file, or every file below a path that ends with `/`. Credentials and endpoints come from the cloud's usual environment."""

    def __init__(self, source: str) -> None:
        try:
            from obstore.store import from_url
        except ImportError:
            raise ModelLoadError("needs the extra `stores`: pip install 'inferstack-runtime[stores]'") from None
        parsed = urllib.parse.urlsplit(source)
        self._scheme, self._bucket, self._path = parsed.scheme, parsed.netloc, parsed.path.lstrip("/")
        if not self._bucket or not self._path:
            raise ModelLoadError(f"expected {self._scheme}://BUCKET/PATH/FILE, or a folder's path that ends with /")
        base = f"{self._scheme}://{self._bucket}"
        client = {"allow_http": True, "connect_timeout": "5s", "timeout": f"{_SECONDS}s"}
        options: dict[str, Any] = {"client_options": client, "retry_config": {"max_retries": 2}}
        try:
            if self._scheme == "s3" and os.environ.get("AWS_ENDPOINT_URL"):
                options["endpoint"] = os.environ["AWS_ENDPOINT_URL"]
            self._store: Any = from_url(base, **options)
        except Exception as error:
            raise ModelLoadError(str(error)) from None

    def files(self) -> Sequence[RemoteFile]:
        import obstore

        try:
            if not self._path.endswith("/"):
                return [self._file(obstore.head(self._store, self._path), self._path.rpartition("/")[0])]
            listed = [meta for page in obstore.list(self._store, self._path) for meta in page]
        except Exception as error:
            raise self._explain(error) from None
        if not listed:
            raise ModelLoadError(f"there are no files below {self._path!r} in {self._bucket!r}; check the bucket's and the folder's name")
        return [self._file(meta, self._path.rstrip("/")) for meta in listed]

    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        import obstore

        folder = self._path.rstrip("/") if self._path.endswith("/") else self._path.rpartition("/")[0]
        path = f"{folder}/{file.name}" if folder else file.name
        if offset and offset == file.size:
            return
        options: Any = {"if_match": file.tag} if file.tag else {}
        if offset:
            options["range"] = {"offset": offset}
        try:
            for chunk in obstore.get(self._store, path, options=options).stream(_CHUNK):
                yield bytes(chunk)
        except Exception as error:
            raise self._explain(error) from None

    @staticmethod
    def _file(meta: Any, folder: str) -> RemoteFile:
        name = meta["path"]
        return RemoteFile(name[len(folder) :].lstrip("/") if folder else name, meta["size"], meta["e_tag"])

    def _explain(self, error: Exception) -> Exception:
        """The library's error as one that says whether it may pass, and what to do."""
        text = str(error).splitlines()[0][:300]
        if (
            "169.254.169.254" in text or "token request" in text
        ):  # it asked the machine for credentials, as a starting node may not have yet
            return RemoteTrouble(f"no credentials: {text}; {_CREDENTIALS[self._scheme]}")
        found = re.search(r"status code: (\d{3})", text)
        status = int(found[1]) if found else 0
        if status == 412:
            return StaleTag()
        if status == 416 or "non-partial response" in text:
            return CannotResume()
        if isinstance(error, FileNotFoundError) or status == 404:
            return ModelLoadError(f"there is no {self._path!r} in {self._bucket!r}; check the bucket's and the file's name")
        if status in (401, 403):
            return ModelLoadError(f"HTTP {status}, these credentials may not read it; {_CREDENTIALS[self._scheme]}")
        if 400 <= status < 500 and status not in (408, 429):
            return ModelLoadError(text)
        return RemoteTrouble(text)
