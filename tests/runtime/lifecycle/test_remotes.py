"""Models from the hub and the three object stores, over servers that speak their HTTP, well and badly."""

import hashlib
import json
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from object_stores import S3, Azure, Google, Hub, Shelf, serving

from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.lifecycle.download import fetch
from inferstack_runtime.lifecycle.remotes import remote_of
from inferstack_runtime.lifecycle.sources import local_source, weight_bytes

DATA = random.Random(5).randbytes(1_200_000)
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
FILE = "models/model.gguf"
KINDS = {"s3": S3, "gs": Google, "abfss": Azure, "hf": Hub}
ROOTS = {"s3": "s3://bucket", "gs": "gs://bucket", "abfss": "abfss://bucket@account.dfs.core.windows.net", "hf": "hf://org/repo"}


@pytest.fixture(params=sorted(KINDS))
def scheme(request):
    return request.param


@pytest.fixture
def store(scheme, tmp_path, monkeypatch):
    shelf = Shelf({FILE: DATA})
    with serving(KINDS[scheme], shelf) as url:
        account = tmp_path / "account.json"
        account.write_text(
            json.dumps({"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""})
        )
        settings = {
            "HF_ENDPOINT": url,
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_REGION": "r",
            "GOOGLE_SERVICE_ACCOUNT": str(account),
            "AZURE_STORAGE_ENDPOINT": url,
            "AZURE_STORAGE_ACCOUNT_KEY": "a2V5",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        yield shelf


def load(scheme, folder, digest=DIGEST, name=FILE, report=lambda phase, share: None):
    return Path(local_source(f"{ROOTS[scheme]}/{name}", digest, folder / "cache", report).removeprefix("file://"))


def test_a_model_is_brought_here_and_verified_and_not_fetched_again(scheme, store, tmp_path):
    seen = []
    path = load(scheme, tmp_path, report=lambda phase, share: seen.append((phase, share)))
    assert path.read_bytes() == DATA
    assert seen[-1] == ("verifying", 1.0)
    assert weight_bytes(f"{ROOTS[scheme]}/{FILE}", tmp_path / "cache") == len(DATA)
    fetched = len(store.downloads())
    assert load(scheme, tmp_path).read_bytes() == DATA
    assert len(store.downloads()) == fetched


def test_a_download_that_is_cut_goes_on_where_it_stopped(scheme, store, tmp_path):
    store.cut, store.cuts = 400_000, 2
    assert load(scheme, tmp_path).read_bytes() == DATA
    begins = [int(span.removeprefix("bytes=").partition("-")[0]) for span in store.downloads() if span]
    assert begins, "it was resumed"
    assert begins == sorted(begins)
    assert begins[0] > 0


def test_a_source_that_does_not_know_ranges_is_begun_anew(scheme, store, tmp_path):
    store.cut, store.cuts, store.whole = 400_000, 1, True
    assert load(scheme, tmp_path).read_bytes() == DATA


def test_a_part_that_is_longer_than_the_file_is_begun_anew(scheme, store, tmp_path):
    store.cut, store.cuts = 50_000, 10**6
    with pytest.raises(ModelLoadError, match="tried 5 times"):
        fetch(remote_of(f"{ROOTS[scheme]}/{FILE}"), tmp_path, lambda phase, share: None, sleep=lambda seconds: None)
    (part,) = tmp_path.rglob("*.part")
    with part.open("ab") as damaged:
        damaged.write(b"x" * 2 * len(DATA))
    store.cuts = 0
    (path,) = fetch(remote_of(f"{ROOTS[scheme]}/{FILE}"), tmp_path, lambda phase, share: None, sleep=lambda seconds: None)
    assert path.read_bytes() == DATA


def test_a_file_that_changes_between_its_parts_is_never_put_together(scheme, store, tmp_path):
    begun = len(store.downloads())

    def change(shelf):
        if len([span for span in shelf.downloads()[begun:] if span]):
            shelf.files[FILE] = DATA[::-1]

    store.cut, store.cuts, store.change = 400_000, 2, change
    with pytest.raises(ModelLoadError, match="changed at its source while it was downloaded; load again"):
        load(scheme, tmp_path, None)
    assert load(scheme, tmp_path, None).read_bytes() == DATA[::-1]


def test_a_wrong_digest_is_refused_and_the_file_removed(scheme, store, tmp_path):
    with pytest.raises(
        ModelLoadError, match=rf"{ROOTS[scheme]}.*digest is {DIGEST}, the configuration expects sha256:0+; the download was rem"
    ):
        load(scheme, tmp_path, "sha256:" + "0" * 64)
    assert list((tmp_path / "cache").rglob("*.gguf")) == []
    assert load(scheme, tmp_path).read_bytes() == DATA


HINTS = {"s3": "AWS_ACCESS_KEY_ID", "gs": "GOOGLE_APPLICATION_CREDENTIALS", "abfss": "AZURE_STORAGE_ACCOUNT_KEY", "hf": "HF_TOKEN"}


@pytest.mark.parametrize("name", [FILE, "models/"])
def test_what_may_not_be_read_says_whose_credentials_are_missing_and_is_not_tried_again(scheme, store, tmp_path, name):
    if scheme == "hf" and name != FILE:
        name = ""  # the hub has whole repositories, not folders
    store.refuse = 403
    with pytest.raises(ModelLoadError, match=f"{ROOTS[scheme]}/{name}: .*403.*{HINTS[scheme]}"):
        load(scheme, tmp_path, name=name)
    assert len(store.asked) == 1


@pytest.mark.parametrize("name", ["models/other.gguf", "nothing/"])
def test_what_is_not_there_is_said_so(scheme, store, tmp_path, name):
    with pytest.raises(ModelLoadError, match=rf"{ROOTS[scheme]}.*check the (bucket's|names)"):
        load(scheme, tmp_path, name=name)


def test_trouble_that_passes_is_waited_out(scheme, store, tmp_path):
    store.refuse, store.refusals = 503, 1
    assert load(scheme, tmp_path).read_bytes() == DATA


@pytest.mark.slow
def test_trouble_that_does_not_pass_ends_with_what_and_where(scheme, store, tmp_path):
    store.refuse = 500
    with pytest.raises(ModelLoadError, match=r"cannot look up the files, tried 5 times: .*500"):
        fetch(remote_of(f"{ROOTS[scheme]}/{FILE}"), tmp_path, lambda phase, share: None, sleep=lambda seconds: None)


def test_a_folder_is_brought_whole(scheme, store, tmp_path):
    store.files = {"m/model-00001.safetensors": DATA, "m/model-00002.safetensors": DATA[::-1], "m/config.json": b"{}", "n/x.gguf": b"x"}
    if scheme == "hf":
        store.files = {name.removeprefix("m/"): data for name, data in store.files.items()}
    folder = Path(local_source(f"{ROOTS[scheme]}{'' if scheme == 'hf' else '/m/'}", None, tmp_path, lambda phase, share: None)[7:])
    names = sorted(path.name for path in folder.rglob("*") if path.suffix in (".safetensors", ".json", ".gguf"))
    assert names == ["config.json", "model-00001.safetensors", "model-00002.safetensors"]
    assert (folder / "model-00002.safetensors").read_bytes() == DATA[::-1]


@pytest.mark.parametrize("source", ["hf://just-one", "s3://bucket", "gs://bucket/", "abfss://bucket@account.dfs.core.windows.net"])
def test_a_source_of_no_known_form_says_what_was_expected(tmp_path, source):
    with pytest.raises(ModelLoadError, match=f"{source}: expected "):
        local_source(source, None, tmp_path, lambda phase, share: None)


@pytest.mark.parametrize("scheme", ["hf"], indirect=True)
@pytest.mark.parametrize(("variable", "there", "sent"), [(True, True, "Bearer a"), (False, True, "Bearer b"), (False, False, None)])
def test_the_hubs_token_is_the_variables_else_the_files(scheme, store, tmp_path, monkeypatch, variable, there, sent):
    if there:
        (tmp_path / "token").write_text("b\n")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if variable:
        monkeypatch.setenv("HF_TOKEN", "a")
    store.refuse = 401
    with pytest.raises(ModelLoadError, match="HF_TOKEN"):
        load(scheme, tmp_path)
    assert {headers.get("authorization") for _, _, headers in store.asked} == {sent}
