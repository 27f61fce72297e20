"""Weights files: the official format in and out, and every hostile file refused without running it."""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import peak
import pytest
import torch
from golden.recipe import golden_state_dict, normal
from small import digest, small, trainer

from wdm_cli.engine import checkpoint as checkpoints
from wdm_cli.engine.checkpoint import (
    Checkpoint,
    build_network,
    differing_twins,
    export,
    manifest_path,
    read,
    save,
    twin_names,
)
from wdm_cli.engine.errors import CheckpointError, ConfigError, ResourceError
from wdm_cli.engine.preset import from_dict
from wdm_cli.engine.safe_load import OLD

WNET = {"name": "wnet", "model": {"kind": "wavunet", "base_channels": 32, "channel_multipliers": [1, 2]},
        "data": {"kind": "brats", "image_size": 16}}  # fmt: skip
UNET = WNET | {"name": "unet", "model": WNET["model"] | {"kind": "unet"}}  # type: ignore[operator]


@pytest.fixture(scope="module")
def official(official_keys: dict[str, Any]) -> OrderedDict[str, torch.Tensor]:
    """As the official code saves the WavU-Net: the doubled block under both of its names."""
    state = golden_state_dict(official_keys["wnet_c32_m12"])
    for name, twin in twin_names(from_dict(WNET).network()).items():
        state[name] = state[twin]
    return OrderedDict(state)


def refused(path: Path, preset: dict[str, Any] | None = None) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        build_network(read(path), from_dict(preset or UNET))
    assert str(path) in caught.value.what
    return caught.value


@pytest.mark.parametrize("names", ["both", "first", "second"])
def test_official_weights_load_with_doubled_names_under_either(names: str, official: Any, tmp_path: Path) -> None:
    preset = from_dict(WNET)
    twins = twin_names(preset.network())
    assert len(twins) > 10
    drop = {"both": [], "first": list(twins.values()), "second": list(twins)}[names]
    torch.save(OrderedDict((k, v) for k, v in official.items() if k not in drop), tmp_path / "brats.pt")
    network, _ = build_network(read(tmp_path / "brats.pt"), preset)
    assert all(torch.equal(network.state_dict()[name], official[name]) for name in official)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_export_and_back(suffix: str, official: Any, tmp_path: Path) -> None:
    preset = from_dict(WNET)
    torch.save(official, tmp_path / "a.pt")
    export(tmp_path / f"b{suffix}", read(tmp_path / "a.pt"), preset)
    back = read(tmp_path / f"b{suffix}")
    assert back.preset == (preset if suffix == ".safetensors" else None)
    network, _ = build_network(back, None if back.preset else preset)
    x, t = normal((1, 8, 8, 8, 8), 3), torch.tensor([10])
    first, _ = build_network(read(tmp_path / "a.pt"), preset)
    assert torch.equal(network(x, t), first(x, t))
    if suffix == ".pt":  # what the official code expects
        plain = torch.load(tmp_path / "b.pt", weights_only=True)
        assert plain.keys() == official.keys()
        assert all(v.dtype == torch.float32 for v in plain.values())


def test_export_of_a_run_carries_affine_step_and_ema(tmp_path: Path) -> None:
    trained = trainer()
    for _ in trained.run(lambda: trained.step >= 2):
        pass
    save(tmp_path / "run.pt", trained.state())
    found = read(tmp_path / "run.pt")
    export(tmp_path / "ema.safetensors", found, small())
    export(tmp_path / "raw.safetensors", found, small(), ema=False)
    back = read(tmp_path / "ema.safetensors")
    assert (back.step, back.affine, back.preset) == (2, trained.volumes.affine.tolist(), small())
    name = "input_blocks.0.0.weight"
    assert torch.equal(back.weights[name], trained.ema.state_dict()[name])
    assert torch.equal(read(tmp_path / "raw.safetensors").weights[name], trained.network.state_dict()[name])
    with pytest.raises(ConfigError, match="unknown format"):
        export(tmp_path / "x.ckpt", found, small())


def test_of_two_names_that_differ_the_second_counts(official: Any, tmp_path: Path) -> None:
    """The official code loads one name after the other, so the second stays; the golden recipe makes such files."""
    preset = from_dict(WNET)
    second, first = next(iter(twin_names(preset.network()).items()))
    torch.save(official | {second: official[first] + 1}, tmp_path / "a.pt")
    found = read(tmp_path / "a.pt")
    assert differing_twins(found.weights, preset) == [second]
    assert differing_twins(official, preset) == []
    state = build_network(found, preset)[0].state_dict()
    assert torch.equal(state[first], official[first] + 1)
    assert torch.equal(state[second], state[first])


def test_what_does_not_fit_is_refused_with_counts_and_names(official: Any, tmp_path: Path) -> None:
    path, twins = tmp_path / "a.pt", twin_names(from_dict(WNET).network())
    names = [name for name in official if name not in twins and name not in twins.values()]

    def with_changes(changes: dict[str, Any]) -> str:
        torch.save(OrderedDict((k, v) for k, v in (official | changes).items() if v is not None), path)
        return refused(path, WNET).what

    missing = with_changes(dict.fromkeys(names[:7]))
    assert "7 missing: " + ", ".join(names[:5]) in missing
    assert names[5] not in missing
    assert "1 extra: rubbish" in with_changes({"rubbish": torch.zeros(1)})
    assert f"1 of another shape: {names[0]} (3,)≠" in with_changes({names[0]: torch.zeros(3)})
    assert f"1 not finite: {names[0]}" in with_changes({names[0]: official[names[0]] * float("nan")})
    torch.save(official, path)
    assert "missing" in refused(path, UNET).what
    with pytest.raises(ConfigError, match="bare weights say nothing"):
        build_network(read(path))


def test_a_checkpoint_refuses_another_network_by_name(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", trainer().state())
    with pytest.raises(CheckpointError, match="was trained as small"):
        build_network(read(tmp_path / "a.pt"), from_dict(UNET))


class Bomb:
    """Pickles to a call that leaves a canary file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


class Hungry:
    """Pickles to a request for a terabyte by a function that the safe reader allows."""

    def __reduce__(self) -> Any:
        return bytearray, (10**12,)


def deflated(path: Path) -> None:
    torch.save({"a": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in entries.items():
            new.writestr(name, data)


def giant() -> torch.Tensor:
    """10^12 elements in four bytes."""
    return torch.zeros(1).as_strided((10**6, 10**6), (0, 0))


def old(content: Any, path: Path) -> None:
    """As PyTorch wrote before 1.6."""
    torch.save(content, path, _use_new_zipfile_serialization=False)


def old_that_claims(path: Path) -> None:
    """A tensor of a terabyte in the old format, whose file has a few hundred bytes."""
    old({"a": torch.zeros(77_777)}, path)
    number = (77_777).to_bytes(4, "little")  # BININT1/2 do not hold it
    data = path.read_bytes()[:500].replace(b"J" + number, b"\x8a\x06" + (10**12).to_bytes(6, "little"))
    assert b"J" + number not in data
    path.write_bytes(data)


def tar_in_disguise(path: Path) -> None:
    """Both the old format and a tar archive, which torch would unpack."""
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    data = bytearray(path.read_bytes())
    data[: len(OLD)] = OLD
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)
    assert tarfile.is_tarfile(path)


HOSTILE: dict[str, tuple[Any, str]] = {
    "empty": (lambda p: p.write_bytes(b""), "no PyTorch zip archive"),
    "html": (lambda p: p.write_text("<!doctype html><p>404"), "a web page"),
    "git-lfs": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"), "git-lfs pointer"),
    "truncated": (lambda p: (torch.save({"a": torch.zeros(999)}, p), os.truncate(p, 2000)), "cut off"),
    "pickle bomb": (lambda p: torch.save({"a": Bomb(p.with_name("canary"))}, p), "more than tensors"),
    "legacy pickle": (lambda p: p.write_bytes(pickle.dumps(Bomb(p.with_name("canary")))), "no PyTorch zip archive"),
    "hungry pickle": (lambda p: torch.save({"a": Hungry()}, p), "cannot be read"),
    "module": (lambda p: torch.save(torch.nn.Linear(2, 2), p), "more than tensors"),
    "numpy": (lambda p: torch.save({"a": __import__("numpy").float64(1)}, p), "more than tensors"),
    "optimizer": (lambda p: torch.save({"state": {}, "param_groups": []}, p), "neither a checkpoint"),
    "list": (lambda p: torch.save([torch.zeros(1)], p), "holds a list"),
    "integers": (lambda p: torch.save({"a": torch.zeros(3, dtype=torch.int64)}, p), "neither a checkpoint"),
    "sparse": (lambda p: torch.save({"a": torch.eye(3).to_sparse()}, p), "neither a checkpoint"),
    "compressed": (deflated, "compressed entries"),
    "giant": (lambda p: torch.save({"out.0.weight": giant()}, p), "1 of another shape"),
    "other zip": (lambda p: zipfile.ZipFile(p, "w").close(), "cannot be read"),
    "old bomb": (lambda p: old({"a": Bomb(p.with_name("canary"))}, p), "more than tensors"),
    "old bomb behind": (
        lambda p: (
            old({"a": torch.zeros(9)}, p),
            p.write_bytes(p.read_bytes() + pickle.dumps(Bomb(p.with_name("canary")))),
        ),
        "missing",
    ),  # what follows is not read
    "old hungry pickle": (lambda p: old({"a": Hungry()}, p), "cannot be read"),
    "old module": (lambda p: old(torch.nn.Linear(2, 2), p), "more than tensors"),
    "old giant": (lambda p: old({"out.0.weight": giant()}, p), "1 of another shape"),
    "old cut off": (lambda p: (old({"a": torch.zeros(999)}, p), os.truncate(p, 2000)), "cannot be read"),
    "old cut early": (lambda p: (old({"a": torch.zeros(999)}, p), os.truncate(p, 100)), "cannot be read"),
    "old with a claim": (old_that_claims, "cannot be read"),
    "old and a tar": (tar_in_disguise, "more than tensors"),
    "tar": (lambda p: tarfile.open(p, "w").close(), "a tar archive"),
    "two sets": (
        lambda p: torch.save({"a": {"w": torch.zeros(1)}, "ema": {"w": torch.ones(1)}}, p),
        "2 sets of weights",
    ),
    "damaged parts": (lambda p: torch.save({"format": checkpoints.FORMAT, "model": 3}, p), "a part missing or damaged"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_and_nothing_runs(kind: str, tmp_path: Path) -> None:
    make, reason = HOSTILE[kind]
    path = tmp_path / "weights.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        made = make(path)
    del made
    before = peak.reset()
    assert reason in refused(path).what
    assert not (tmp_path / "canary").exists()
    assert peak.peak() - before < 300e6


WRAPPINGS: dict[str, tuple[Any, str]] = {
    "old": (lambda w: w, "PyTorch's old format, which has no checksums"),
    "module.": (lambda w: {f"module.{n}": t for n, t in w.items()}, "names without 'module.'"),
    "_orig_mod.": (lambda w: {f"_orig_mod.{n}": t for n, t in w.items()}, "names without '_orig_mod.'"),
    "both": (lambda w: {f"_orig_mod.module.{n}": t for n, t in w.items()},
             "names without '_orig_mod.', names without 'module.'"),
    "state_dict": (lambda w: {"state_dict": w, "epoch": 3}, "weights under 'state_dict'"),
    "Lightning": (lambda w: {"epoch": 3, "global_step": 9, "state_dict": {f"model.{n}": t for n, t in w.items()},
                             "optimizer_states": [{"state": {}}], "callbacks": {}},
                  "weights under 'state_dict', names without 'model.'"),
    "ema": (lambda w: {"ema": w, "step": 3}, "weights under 'ema'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRAPPINGS)
def test_what_other_tools_put_around_weights_is_taken_off_and_said(kind: str, official: Any, tmp_path: Path) -> None:
    wrap, said = WRAPPINGS[kind]
    torch.save(wrap(dict(official)), tmp_path / "a.pt", _use_new_zipfile_serialization=kind != "old")
    found = read(tmp_path / "a.pt")
    assert ", ".join(found.changes) == said
    network, _ = build_network(found, from_dict(WNET))
    assert all(torch.equal(tensor, official[name]) for name, tensor in network.state_dict().items())
    torch.save(official, tmp_path / "b.pt")
    assert read(tmp_path / "b.pt").changes == ()


def test_an_unknown_word_before_the_names_is_named(official: Any, tmp_path: Path) -> None:
    torch.save({f"diffusion.unet.{n}": t for n, t in official.items()} | {"other": torch.zeros(1)}, tmp_path / "a.pt")
    hint = refused(tmp_path / "a.pt", WNET).hint
    assert "its names begin with 'diffusion.unet.'" in hint
    weights = torch.load(tmp_path / "a.pt", weights_only=True)
    assert eval(hint[hint.index("{") : hint.rindex(",")], {"weights": weights}).keys() == official.keys()  # noqa: S307 — our own text


def test_names_in_a_safetensors_file_too(official: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({f"module.{n}": t.clone() for n, t in official.items()}, tmp_path / "a.safetensors")
    found = read(tmp_path / "a.safetensors")
    assert found.changes == ("names without 'module.'",)
    build_network(found, from_dict(WNET))


@pytest.mark.slow
def test_a_line_that_saves_them_anew_is_one_that_works(official: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Of several sets one is chosen; what holds more than tensors is saved without it."""
    monkeypatch.chdir(tmp_path)
    for content in ({"model": dict(official), "ema": dict(official)}, {"state_dict": dict(official), "path": Path()}):
        torch.save(content, tmp_path / "a.pt")
        line = refused(tmp_path / "a.pt", WNET).hint
        command = line[line.index("python -c") :].partition(" (")[0]
        subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)
        build_network(read(tmp_path / "weights.pt"), from_dict(WNET))


def test_weights_in_a_folder_whose_name_is_no_text(official: Any, tmp_path: Path) -> None:
    folder = tmp_path / "d\udcff"
    folder.mkdir()
    for name, new in (("a.pt", True), ("b.pt", False)):
        torch.save(official, tmp_path / name, _use_new_zipfile_serialization=new)
        build_network(read((tmp_path / name).rename(folder / name)), from_dict(WNET))


def test_the_canary_sings_where_files_are_trusted(tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    torch.save({"a": Bomb(tmp_path / "canary")}, tmp_path / "a.pt")
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff" * 64, b'\x08\0\0\0\0\0\0\0{"a": 3}'], ids=str)
def test_safetensors_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    refused(tmp_path / "a.safetensors")


def test_safetensors_with_damaged_metadata(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for metadata in ({"preset": "{"}, {"preset": '{"name": 3}'}, {"affine": "[1]"}, {"preset": "[]"}):
        save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata)
        assert "metadata" in refused(tmp_path / "a.safetensors").what


@pytest.mark.parametrize("with_manifest", [True, False])
def test_every_flipped_bit_is_found(with_manifest: bool, tmp_path: Path) -> None:
    """With the manifest anywhere in the file, without it anywhere in the tensors."""
    path = tmp_path / "a.pt"
    save(path, trainer().state())
    whole = path.read_bytes()
    if not with_manifest:
        manifest_path(path).unlink()
        with zipfile.ZipFile(path) as archive:
            tensors = [e for e in archive.infolist() if "/data/" in e.filename]
        spots = [entry.header_offset + 200 for entry in tensors[:: max(1, len(tensors) // 20)] if entry.file_size > 256]
    else:
        spots = list(range(0, len(whole), len(whole) // 200))[:200]
    assert len(spots) == 200 if with_manifest else len(spots) >= 5
    for spot in spots:
        damaged = bytearray(whole)
        damaged[spot] ^= 1 << spot % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            read(path)
    path.write_bytes(whole)
    read(path)


def test_damaged_manifest_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", trainer().state())
    for content in ("", "[]", "{}", "\0"):
        manifest_path(tmp_path / "a.pt").write_text(content)
        with pytest.raises(CheckpointError, match="not a manifest"):
            read(tmp_path / "a.pt")


def test_save_and_read_give_everything_back(tmp_path: Path) -> None:
    trained, other = trainer(), trainer()
    for _ in trained.run(lambda: trained.step >= 3):
        pass
    save(tmp_path / "a.pt", trained.state())
    found = read(tmp_path / "a.pt")
    other.restore(found)
    assert digest(other) == digest(trained)
    assert found.sha256 == json.loads(manifest_path(tmp_path / "a.pt").read_text())["sha256"]
    assert found.preset == small()


def test_a_full_disk_is_known_before_and_named_after(tmp_path: Path, monkeypatch: Any) -> None:
    state = trainer().state()
    save(tmp_path / "a.pt", state)
    whole = (tmp_path / "a.pt").read_bytes()
    usage = type("Usage", (), {"free": 1000})
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: usage)
        with pytest.raises(ResourceError, match=r"a\.pt: it needs \d+ MB, 0 MB are free"):
            save(tmp_path / "a.pt", state)
    bare = Checkpoint(Path(), state.weights)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # the disk fills up while torch writes
    try:
        for target in ("a.pt", "b.pt", "b.safetensors"):
            write = (
                partial(save, checkpoint=state)
                if target == "a.pt"
                else partial(export, checkpoint=bare, preset=small())
            )
            with pytest.raises(ResourceError, match=f"cannot write .*{target}"):
                write(tmp_path / target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pt"]
    assert (tmp_path / "a.pt").read_bytes() == whole
    read(tmp_path / "a.pt")


def test_torch_hides_a_full_disk_and_we_do_not(tmp_path: Path, monkeypatch: Any) -> None:
    def fail(*args: Any) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(ResourceError, match="no space left"):
        save(tmp_path / "a.pt", trainer().state())
