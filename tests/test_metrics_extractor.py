"""MedicalNet ResNets: golden features, the file format, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from golden.recipe import golden_state_dict, smooth_volume

from wdm_cli.engine.errors import CheckpointError, OutOfMemoryError, ResourceError, WdmError
from wdm_cli.engine.metrics.extractor import (
    Extractor,
    infer_depth,
    load_extractor,
    load_own_network,
    read_medicalnet,
    read_state,
)
from wdm_cli.engine.metrics.resnet import BLOCKS, ResNet
from wdm_cli.engine.safe_load import OLD

HERE = Path(__file__).parent / "golden"
SHAPES = json.loads((HERE / "official_keys.json").read_text())["medicalnet_resnet50"]


def save(path, state):
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file of depth 10."""
    torch.manual_seed(0)
    return save(tmp_path_factory.mktemp("weights") / "resnet_10.pth", ResNet(10).state_dict())


def test_golden_features(tmp_path):
    path = tmp_path / "resnet_50_23dataset.pth"
    torch.save({"state_dict": golden_state_dict(SHAPES)}, path)
    features = load_extractor(path, device="cpu")(smooth_volume(128, 100)).flatten().double()
    golden = json.loads((HERE / "golden.json").read_text())["fid/features128/volume0"]
    assert features.numel() == golden["numel"]
    torch.testing.assert_close(
        features[golden["index"]], torch.tensor(golden["value"], dtype=torch.float64), rtol=1e-3, atol=1e-7
    )
    assert features.mean().item() == pytest.approx(golden["mean"], rel=1e-3)
    assert features.std().item() == pytest.approx(golden["std"], rel=1e-3)


def test_names_and_shapes_are_those_of_the_released_file():
    with torch.device("meta"):
        state = ResNet(50).state_dict()
    assert {f"module.{name}": list(value.shape) for name, value in state.items()} == SHAPES


@pytest.mark.parametrize(("depth", "kind", "width"), [(10, "B", 512), (18, "A", 512)])
def test_siblings_are_told_apart_by_their_names(tmp_path, depth, kind, width):
    torch.manual_seed(depth)
    network = ResNet(depth, kind).eval()
    loaded = read_medicalnet(save(tmp_path / "weights.pth", network.state_dict())).eval()
    volume = torch.rand(1, 1, 16, 16, 16)
    features = loaded(volume)
    assert features.shape == (1, width)
    assert torch.equal(features, network(volume))


def test_every_depth_is_known_by_its_blocks():
    for depth in BLOCKS:
        with torch.device("meta"):
            assert infer_depth(ResNet(depth).state_dict()) == depth


def test_random_weights_are_seeded_and_labelled():
    volume = torch.rand(1, 1, 16, 16, 16)
    first, again, other = (load_extractor("random", device="cpu", seed=seed) for seed in (0, 0, 1))
    assert not first.comparable
    assert torch.equal(first(volume), again(volume))
    assert first.sha256 == again.sha256 != other.sha256
    assert not torch.equal(first(volume), other(volume))


def test_making_random_weights_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_extractor("random", device="cpu", seed=3)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape", "nan"])
def test_a_file_is_never_loaded_in_part(small, tmp_path, damage):
    state = torch.load(small, weights_only=True)["state_dict"]
    if damage == "missing":
        for name in list(state)[:7]:
            del state[name]
    elif damage == "unexpected":
        state |= {f"module.extra{i}": torch.zeros(1) for i in range(9)}
    elif damage == "shape":
        state["module.conv1.weight"] = torch.zeros(64, 3, 7, 7, 7)
    else:
        state["module.bn1.bias"][0] = float("nan")
    path = tmp_path / "bad.pth"
    torch.save({"state_dict": state}, path)
    with pytest.raises(CheckpointError, match="does not fit MedicalNet ResNet-10") as error:
        load_extractor(path, device="cpu")
    expected = {
        "missing": "7 missing: conv1.weight, bn1.weight, bn1.bias, bn1.running_mean, bn1.running_var",
        "unexpected": "9 unexpected: extra0, extra1, extra2, extra3, extra4",
        "shape": "1 of another shape: conv1.weight",
        "nan": "1 not finite: bn1.bias",
    }
    assert error.value.why == expected[damage]


class Payload:
    """Runs code when unpickled by a careless reader."""

    def __reduce__(self):
        return (Path.touch, (Path("canary"),))


def test_nothing_in_a_file_can_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, "evil.pth")
    torch.save({"state_dict": Payload()}, "old.pth", _use_new_zipfile_serialization=False)
    for name in ("evil.pth", "old.pth"):
        with pytest.raises(CheckpointError, match="holds more than tensors"):
            load_extractor(name, device="cpu")
    assert not Path("canary").exists()


@pytest.mark.parametrize(
    ("content", "verdict"),
    [
        (b"", "cut off"),
        (b"<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"\x80\x02\x8a\nl\xfc", "cut off"),
        (OLD + b"\x80\x02M\xe9\x03.", "cannot be read"),
    ],
)
def test_files_that_are_no_weights(tmp_path, content, verdict):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=verdict):
        load_extractor(path, device="cpu")


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"model": w}, lambda w: {"net": {f"_orig_mod.module.{n}": t
                         for n, t in w.items()}}], ids=["bare", "model", "compiled"])  # fmt: skip
def test_other_wrappings_of_the_same_tensors_are_read(wrap, tmp_path):
    state = ResNet(10, "B").state_dict()
    torch.save(wrap(state), tmp_path / "weights.pth")
    found = read_state(tmp_path / "weights.pth")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="has no 'state_dict'"):
        load_extractor(tmp_path / "weights.pth", device="cpu")


def test_files_in_the_format_of_their_time_are_read(small, tmp_path):
    """The released files were written before PyTorch's zip format."""
    path = tmp_path / "old.pth"
    torch.save(torch.load(small, weights_only=True), path, _use_new_zipfile_serialization=False)
    assert load_extractor(path, device="cpu").comparable


class Mean(torch.nn.Module):
    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return volume.mean(dim=(2, 3, 4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TorchScript, which users still have
def test_own_network_from_torchscript(tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.script(Mean()).save(path)
    extractor = load_own_network(str(path), device="cpu")
    volume = torch.rand(1, 1, 4, 4, 4)
    assert extractor(volume).item() == pytest.approx(volume.mean().item())
    assert not extractor.comparable
    (tmp_path / "bad.pt").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="not a TorchScript file"):
        load_own_network(str(tmp_path / "bad.pt"), device="cpu")


def test_own_network_from_a_function(tmp_path, monkeypatch):
    (tmp_path / "my_own_net.py").write_text("def build():\n    return lambda v: v.amax(dim=(2, 3, 4))\n")
    monkeypatch.chdir(tmp_path)
    volume = torch.rand(1, 1, 4, 4, 4)
    assert load_own_network("my_own_net:build", device="cpu")(volume).item() == volume.max().item()
    for source in ("my_own_net:other", "no_such_module:build", "no_such_file.pt"):
        with pytest.raises(ResourceError, match=source.split(":")[0]):
            load_own_network(source, device="cpu")


def test_retrained_weights_of_an_own_network_are_another_network(tmp_path, monkeypatch):
    """Else features of the old weights would come from the cache."""
    (tmp_path / "loads_weights.py").write_text(
        "import torch\n\ndef build():\n    net = torch.nn.Flatten(), torch.nn.Linear(8, 2)\n"
        "    net[1].load_state_dict(torch.load('mine.pt'))\n    return torch.nn.Sequential(*net)\n"
    )
    monkeypatch.chdir(tmp_path)
    found = []
    for value in (1.0, 1.0, 2.0):
        torch.save({"weight": torch.full((2, 8), value), "bias": torch.zeros(2)}, "mine.pt")
        found.append(load_own_network("loads_weights:build", device="cpu").sha256)
    assert found[0] == found[1] != found[2]


def test_features_are_full_float32_on_every_device():
    seen = []

    def network(volume):
        seen.append(torch.backends.cudnn.allow_tf32)
        return volume.flatten(1)

    before = torch.backends.cudnn.allow_tf32
    Extractor("any", "0" * 64, network, torch.device("cpu"))(torch.zeros(1, 1, 2, 2, 2))
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 == before


def test_out_of_memory_says_what_to_change():
    def full(volume):
        raise torch.OutOfMemoryError("no more")

    extractor = Extractor("full", "0" * 64, full, torch.device("cpu"))
    with pytest.raises(OutOfMemoryError, match="8×8×8 voxels") as error:
        extractor(torch.zeros(1, 1, 8, 8, 8))
    assert "medicalnet_resnet10 is smaller" in error.value.hint


def test_missing_file_and_device():
    with pytest.raises(ResourceError, match="no extractor weights"):
        load_extractor("nowhere.pth", device="cpu")
    with pytest.raises(WdmError, match="--device abacus"):
        load_extractor("random", device="abacus")
