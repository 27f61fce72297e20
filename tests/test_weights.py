"""Released weights: the registry, downloads that stop and go on, checksums, and life without a network."""

import hashlib
import io
import json
import urllib.error
from types import SimpleNamespace

import pytest
from test_cli_eval import invoke

from wdm_cli.engine import weights
from wdm_cli.engine.errors import ConfigError, ResourceError
from wdm_cli.engine.evaluate import finish
from wdm_cli.engine.weights import Release, adopt, download, path_of, registry, verify

CONTENT = bytes(range(256)) * 20000  # five chunks
SHA = hashlib.sha256(CONTENT).hexdigest()
RELEASE = Release("net", "net.pth", "someone/net", len(CONTENT), SHA, "MIT", None, "a test")
UNPINNED = Release("net", "net.pth", "someone/net", None, None, "MIT", None, "a test")


class Server:
    """Answers like a file server with ranges; may break off, or send something else."""

    def __init__(self, content=CONTENT, stop_after=None, ranges=True, url="https://cdn.example/net.pth"):
        self.content, self.stop_after, self.ranges, self.url, self.requests = content, stop_after, ranges, url, []

    def __call__(self, request, timeout):
        start = request.get_header("Range")
        self.requests.append(start)
        begin = int(start.removeprefix("bytes=").rstrip("-")) if start and self.ranges else 0
        body = self.content[begin:]
        response = io.BytesIO(body if self.stop_after is None else body[: self.stop_after])
        response.status = 206 if begin else 200
        response.headers = {"Content-Length": str(len(body))}
        response.geturl = lambda: self.url
        return response


def test_registry_is_well_formed():
    known = registry()
    assert known["brats_unet_128"].bytes == 231_809_874
    assert known["medicalnet_resnet50"].url.endswith("MedicalNet-Resnet50/resolve/main/resnet_50_23dataset.pth")
    for name, release in known.items():
        assert release.name == name
        assert release.licence == "MIT"
        assert release.url.startswith("https://huggingface.co/")
        assert release.sha256 is None or len(release.sha256) == 64
    assert len({release.file for release in known.values()}) == len(known)


def test_names_files_and_near_misses():
    assert weights.find("brats_unet_128").file == "brats_unet_128_1200k.pt"
    assert weights.find("resnet_50_23dataset.pth").name == "medicalnet_resnet50"
    with pytest.raises(ConfigError, match="did you mean brats_unet_128"):
        weights.find("brats_unet128")


def test_download_reports_bytes_and_is_not_repeated(tmp_path):
    server = Server()
    records = list(download(RELEASE, tmp_path, server))
    assert records[-1].done == records[-1].total == len(CONTENT)
    path = path_of(RELEASE, tmp_path)
    assert path.read_bytes() == CONTENT
    assert verify(RELEASE, tmp_path) == SHA
    assert finish(download(RELEASE, tmp_path, server)) == path
    assert len(server.requests) == 1


def test_a_broken_connection_continues_where_it_stopped(tmp_path):
    with pytest.raises(ResourceError, match="ended after 2,000,000 of 5,120,000 bytes; the same command continues"):
        finish(download(RELEASE, tmp_path, Server(stop_after=2_000_000)))
    assert not path_of(RELEASE, tmp_path).exists()
    server = Server()
    finish(download(RELEASE, tmp_path, server))
    assert server.requests == ["bytes=2000000-"]
    assert verify(RELEASE, tmp_path) == SHA


def test_too_little_space_is_said_before_the_first_byte_and_what_is_here_counts(tmp_path, monkeypatch):
    with pytest.raises(ResourceError):
        finish(download(RELEASE, tmp_path, Server(stop_after=2_000_000)))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(ResourceError, match="it needs 3 MB, 1 MB are free") as error:
        finish(download(RELEASE, tmp_path, Server()))
    assert "WDM_CACHE_DIR" in error.value.hint
    (partial,) = tmp_path.rglob("net.pth")
    assert partial.stat().st_size == 2_000_000
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=3_120_000))
    finish(download(RELEASE, tmp_path, Server()))
    assert verify(RELEASE, tmp_path) == SHA


def test_a_server_without_ranges_sends_all_again(tmp_path):
    with pytest.raises(ResourceError):
        finish(download(RELEASE, tmp_path, Server(stop_after=1000)))
    finish(download(RELEASE, tmp_path, Server(ranges=False)))
    assert verify(RELEASE, tmp_path) == SHA


def test_a_wrong_checksum_leaves_nothing(tmp_path):
    with pytest.raises(ResourceError, match="thrown away") as error:
        finish(download(RELEASE, tmp_path, Server(CONTENT[::-1])))
    assert RELEASE.page in error.value.hint
    assert not list(tmp_path.rglob("net.pth"))


def test_only_https(tmp_path):
    with pytest.raises(ResourceError, match="not https"):
        finish(download(RELEASE, tmp_path, Server(url="http://cdn.example/net.pth")))


def test_no_network_names_the_page_and_the_way_by_hand(tmp_path):
    def unreachable(request, timeout):
        raise urllib.error.URLError("no route")

    with pytest.raises(ResourceError, match="no route") as error:
        finish(download(RELEASE, tmp_path, unreachable))
    assert "https://huggingface.co/someone/net" in error.value.hint
    assert "wdm weights import net.pth" in error.value.hint


def test_a_file_without_a_published_hash_is_pinned_to_what_came_first(tmp_path):
    finish(download(UNPINNED, tmp_path, Server()))
    assert verify(UNPINNED, tmp_path) == SHA
    path_of(UNPINNED, tmp_path).write_bytes(CONTENT[:-1])
    with pytest.raises(ResourceError, match=f"expected {SHA}"):
        verify(UNPINNED, tmp_path)


def test_files_fetched_by_hand_are_checked(tmp_path):
    (tmp_path / "net.pth").write_bytes(CONTENT)
    assert adopt(tmp_path / "net.pth", RELEASE, tmp_path / "cache").read_bytes() == CONTENT
    (tmp_path / "net.pth").write_bytes(b"other")
    with pytest.raises(ResourceError, match="expected"):
        adopt(tmp_path / "net.pth", RELEASE, tmp_path / "cache")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WDM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WDM_OFFLINE", "1")


def test_offline_exits_5_naming_the_page(offline):
    code, out, err = invoke("weights", "get", "medicalnet_resnet50")
    assert (code, out) == (5, "")
    assert "https://huggingface.co/TencentMedicalNet/MedicalNet-Resnet50" in err
    code, _, err = invoke("weights", "verify", "medicalnet_resnet50")
    assert (code, "is not here" in err) == (5, True)
    code, out, _ = invoke("weights", "list")
    assert code == 0
    assert "medicalnet_resnet50\tnot here\tMIT\twdm eval\t" in out
    assert "cwdm_t1\tnot here\tMIT\tno preset yet\t" in out
    assert invoke("weights", "get", "nonsense")[0] == 2


def test_what_no_command_runs_is_said_before_it_is_fetched(offline, tmp_path):
    idle = {name for name, release in registry().items() if not release.run_by}
    assert idle == {"cwdm_t1", "cwdm_t1ce", "cwdm_t2", "cwdm_flair"}
    listed = json.loads(invoke("weights", "list", "--json")[1])
    assert {entry["name"] for entry in listed if not entry["run_by"]} == idle
    (tmp_path / "t1_gen.pt").write_bytes(b"weights")
    for words in (("get", "cwdm_t1"), ("import", tmp_path / "t1_gen.pt")):
        assert "warning: nothing in wdm runs cwdm_t1" in invoke("weights", *words)[2]
    for words in (("get", "cwdm_t1"), ("get", "medicalnet_resnet10"), ("get", "brats_unet_128")):
        assert ("nothing in wdm runs" in invoke("weights", *words)[2]) == (words[1] in idle)


def test_medicalnet_by_hand_then_by_name(offline, tmp_path):
    import torch

    from wdm_cli.engine.metrics.resnet import ResNet

    file = tmp_path / "resnet_10_23dataset.pth"
    state = {f"module.{name}": value for name, value in ResNet(10).state_dict().items()}
    torch.save({"state_dict": state}, file)
    code, out, err = invoke("weights", "import", file)
    assert code == 0, err
    assert "--weights medicalnet_resnet10" in err
    assert invoke("weights", "path", "medicalnet_resnet10")[1] == out
    assert "as it first came" in invoke("weights", "verify")[1]
    folders = ("--real", tmp_path / "r", "--fake", tmp_path / "f")
    for folder in (tmp_path / "r", tmp_path / "f"):
        folder.mkdir()
    code, _, err = invoke("eval", "fid", *folders, "--weights", "medicalnet_resnet18", "--device", "cpu")
    assert (code, "wdm weights get medicalnet_resnet18" in err) == (5, True)
    code, _, err = invoke("eval", "fid", *folders, "--weights", "medicalnet_resnet10", "--device", "cpu")
    assert (code, "0 NIfTI files" in err) == (3, True)  # the weights were found, the volumes were not


def test_a_copy_in_the_hub_cache_is_taken(offline, tmp_path, monkeypatch):
    import huggingface_hub
    import torch

    from wdm_cli.engine.metrics.resnet import ResNet

    known = weights.find("medicalnet_resnet10")
    repo = tmp_path / "hub" / f"models--{known.repo.replace('/', '--')}"
    (repo / "snapshots" / "abc").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    state = {f"module.{name}": value for name, value in ResNet(10).state_dict().items()}
    torch.save({"state_dict": state}, repo / "snapshots" / "abc" / known.file)
    lookup = huggingface_hub.try_to_load_from_cache
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda r, f: lookup(r, f, cache_dir=tmp_path / "hub")
    )
    code, out, err = invoke("weights", "get", known.name)
    assert code == 0, err
    assert out.strip() == str(path_of(known, tmp_path / "cache" / "weights"))
