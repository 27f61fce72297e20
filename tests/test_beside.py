"""Real volumes beside generated ones: one order of axes, each folder read as it says, hints that can be typed."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import typer
from command import wdm
from small import small

from wdm_cli.cli.main import app
from wdm_cli.engine import evaluate
from wdm_cli.engine.beside import open_generated, open_real
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.metrics import METRICS, extractor, resnet
from wdm_cli.engine.metrics.compare import compare
from wdm_cli.engine.metrics.extractor import Extractor
from wdm_cli.engine.metrics.volumes import open_dataset, open_folder

TILT = np.array([[0.96, -0.28, 0, 0], [0.28, 0.96, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # 16 degrees: oblique


def body(seed: int, shape: tuple[int, int, int] = (16, 16, 16)) -> np.ndarray:
    """A lopsided volume in [0, 1], [D, H, W]: no turn of it looks like another."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radii = rng.uniform(0.6, 0.9, 3)
    inside = (x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2 < 1
    value = inside * (0.5 + 0.25 * x + 0.15 * y - 0.08 * z + 0.01 * rng.standard_normal(shape))
    return value.clip(0, 1).astype(np.float32)


def store(path: Path, array: np.ndarray, axes: str = "RAS", spacing: float = 2.0, affine: Any = None) -> None:
    """Write an array that lies in RAS so that the file's axes point to `axes`; every voxel keeps its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.diag([spacing, spacing, spacing, 1]) if affine is None else affine)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(axes))
    )
    turned = image.as_reoriented(turn)
    assert "".join(nib.aff2axcodes(turned.affine)) == axes
    nib.save(nib.Nifti1Image(np.ascontiguousarray(turned.dataobj), turned.affine), path)


def folder(root: Path, first: int, axes: str | list[str] = "RAS", n: int = 4, **options: Any) -> Path:
    shape = options.pop("shape", (16, 16, 16))
    for index in range(n):
        here = axes if isinstance(axes, str) else axes[index % len(axes)]
        store(root / f"v{index}.nii.gz", body(first + index, shape), here, **options)
    return root


def corner(volumes: Any) -> Any:
    """Features that no turn leaves alone."""
    return volumes[:, 0, ::3, ::5, ::4].flatten(1)


EXTRACTOR = Extractor("corner", "0" * 64, corner, __import__("torch").device("cpu"))


def all_scores(fake: Path, real: Path, cache: Path | None = None) -> evaluate.Report:
    options = evaluate.Options(cache_dir=cache)
    generated, true = open_folder(fake), open_folder(real)
    report = evaluate.finish(evaluate.run_all(generated, true, EXTRACTOR, options))
    copies, _ = evaluate.finish(evaluate.memorization(true, generated, None, EXTRACTOR, options))
    return report.with_scores_of(copies)


@pytest.mark.parametrize(
    ("axes", "shape", "affine"),
    [
        ("LPS", (16, 16, 16), None),  # as BraTS distributes
        ("RPI", (16, 16, 16), None),
        ("PSR", (16, 16, 18), None),  # exchanged, and no cube
        (["RAS", "LPS", "ASL"], (16, 16, 16), None),  # mixed in one folder
        (["SLA", "RAS"], (16, 16, 18), None),
        ("LPS", (16, 16, 16), TILT),  # oblique
    ],
)
def test_every_score_is_of_volumes_in_one_order_of_axes(tmp_path: Path, axes: Any, shape: Any, affine: Any) -> None:
    """As if the real volumes had been stored as the generated ones are, with a word on what was turned."""
    same = {"shape": shape, "affine": affine}
    fake = folder(tmp_path / "fake", 50, **same)
    asked = all_scores(fake, folder(tmp_path / "straight", 0, **same))
    found = all_scores(fake, folder(tmp_path / "turned", 0, axes, **same))
    assert {s.metric for s in found.scores} >= {metric().kind for metric in METRICS} - {"prdc"}
    assert [(s.name, s.value) for s in found.scores] == [(s.name, s.value) for s in asked.scores]
    said = [text for text in found.warnings if "turned to RAS" in text]
    assert len(said) == 1
    assert (axes if isinstance(axes, str) else axes[1]).replace("RAS", axes[0]) in said[0]
    assert not any("turned" in text for text in asked.warnings)
    assert found.protocol["axes"] == "RAS"
    assert sum(found.protocol["real"]["orientations"].values()) == 4
    assert found.protocol["fake"]["orientations"] == {"RAS": 4}


def test_generated_volumes_that_lie_unlike_are_turned_to_the_first_and_it_is_said(tmp_path: Path) -> None:
    mixed, plain = folder(tmp_path / "mixed", 0, ["LPS", "RAS"]), folder(tmp_path / "plain", 0, "LPS")
    metric = [evaluate.MSSSIM(scales=1)]
    report = evaluate.finish(evaluate.run(metric, open_folder(mixed)))
    asked = evaluate.finish(evaluate.run(metric, open_folder(plain)))
    assert report["msssim"] == asked["msssim"]
    assert any("of 4 volumes 2 lie RAS; they were turned to LPS" in text for text in report.warnings)


def test_kept_rows_are_of_what_was_computed(tmp_path: Path) -> None:
    """A cache filled with volumes as they are stored gives nothing to a comparison that turns them."""
    cache, real = tmp_path / "cache", folder(tmp_path / "real", 0, "LPS")
    stored = folder(tmp_path / "stored", 50, "LPS")
    fake = folder(tmp_path / "fake", 50)
    alone = all_scores(stored, real, cache)
    assert all_scores(fake, real, cache).scores == all_scores(fake, real).scores
    assert alone.scores == all_scores(stored, real).scores
    assert open_folder(real).identity(0) != open_folder(real).turned("RAS").identity(0)


def test_unlike_shapes_along_the_same_axes_are_refused_naming_both_orders(tmp_path: Path) -> None:
    real, fake = (
        folder(tmp_path / "real", 0, "PSR", shape=(16, 18, 16)),
        folder(tmp_path / "fake", 9, shape=(16, 16, 18)),
    )
    with pytest.raises(DataError, match=r"\(RAS\), but .*16×18×16 \(PSR, turned to RAS\)"):
        all_scores(fake, real)
    store(real / "v9.nii.gz", body(1, (16, 16, 18)), "RAS")
    with pytest.raises(DataError, match=r"v9.nii.gz: 16×16×18 voxels \(RAS\), but v0.nii.gz has .* \(PSR\)"):
        open_folder(real)


@pytest.mark.parametrize(("mm", "said"), [(2.0, False), (2.01, False), (1.0, True)])
def test_voxels_of_unlike_size_are_said_with_both_sizes(tmp_path: Path, mm: float, said: bool) -> None:
    real, fake = folder(tmp_path / "real", 0, spacing=mm), folder(tmp_path / "fake", 9)
    report = all_scores(fake, real)
    assert any("voxels of 1 × 1 × 1 mm in" in t and "2 × 2 × 2 mm in" in t for t in report.warnings) == said
    assert report.protocol["fake"]["voxel_sizes_mm"] == {"2 × 2 × 2": 4}


def test_a_data_set_of_several_orders_says_what_the_training_saw(tmp_path: Path) -> None:
    """Raw MR of a preset: turned for the comparison, with a word on the mixture that the model has learned."""
    raw = folder(tmp_path / "raw", 0, ["RAS", "LPS"])
    straight = folder(tmp_path / "straight", 0)
    fake, data = open_folder(folder(tmp_path / "fake", 9)), small(data__kind="nifti", data__image_size=16).data
    found = evaluate.finish(evaluate.without_network(fake, open_dataset(raw, data)))
    asked = evaluate.finish(evaluate.without_network(fake, open_dataset(straight, data)))
    assert [s.value for s in found.scores] == pytest.approx([s.value for s in asked.scores], abs=1e-6)
    assert any("a model of these data may make volumes of every orientation" in text for text in found.warnings)
    assert not any("every orientation" in text for text in asked.warnings)
    flat = dataclasses.replace(data, image_size=(16, 16, 8))
    with pytest.raises(DataError, match=r"v1.nii.gz: .*\(ASL\), but v0.nii.gz has .*\(RAS\)"):
        open_dataset(folder(tmp_path / "exchanged", 0, ["RAS", "ASL"]), flat)


@pytest.mark.parametrize("voxel", ["one-factor", (3.0, 3.0, 3.0)])
def test_a_preset_that_leaves_the_voxel_size_open_takes_that_of_the_samples(tmp_path: Path, voxel: Any) -> None:
    fake, raw = samples(tmp_path / "fake", data__kind="nifti", data__voxel=voxel), tmp_path / "raw"
    for index, side in enumerate((32, 40)):
        store(raw / f"v{index}.nii.gz", 900 * body(index, (side,) * 3), spacing=1.0)
    named = small(data__kind="nifti", data__image_size=16).data
    assert named.voxel == "common"
    volumes, _ = open_real(raw, open_generated(fake), named)
    assert volumes.dataset is not None
    assert volumes.dataset.voxel == voxel


def test_results_of_before_axes_were_recorded_can_still_be_compared(tmp_path: Path) -> None:
    report = all_scores(folder(tmp_path / "fake", 9), folder(tmp_path / "real", 0))
    old = dataclasses.replace(report, protocol={k: v for k, v in report.protocol.items() if k != "axes"})
    _, warnings = compare(old, report)
    assert warnings == ["order of axes not recorded (arrays as they were stored) and RAS"]
    assert compare(report, report)[1] == []


def test_cases_keep_their_names(tmp_path: Path) -> None:
    for number, case in enumerate(("LIDC-IDRI-0001", "LIDC-IDRI-0002")):
        store(tmp_path / "lidc" / case / "preprocessed.nii.gz", body(number))
        store(tmp_path / "brats" / f"{case}-t1n.nii.gz", body(number))
        store(tmp_path / "same" / case / "t1.nii.gz", body(number))
    fake = folder(tmp_path / "fake", 9)
    assert open_folder(tmp_path / "lidc").names == ("LIDC-IDRI-0001", "LIDC-IDRI-0002")
    assert open_folder(tmp_path / "brats").names == ("LIDC-IDRI-0001-t1n", "LIDC-IDRI-0002-t1n")
    assert open_folder(tmp_path / "same").names == ("LIDC-IDRI-0001/t1.nii.gz", "LIDC-IDRI-0002/t1.nii.gz")
    assert open_folder(fake).names[0] == "v0"
    lidc = open_folder(tmp_path / "lidc")
    assert lidc.subset([0, 1]).with_files(lidc.files[::-1]).names == lidc.names[::-1]
    part = open_dataset(tmp_path / "lidc", small(data__kind="lidc-idri").data)
    again = dataclasses.replace(part, files=part.files[:1], names=part.names[:1], lays=part.lays[:1])
    assert again.with_files(part.files) == part
    report, _ = evaluate.finish(evaluate.memorization(open_folder(tmp_path / "lidc"), open_folder(fake)))
    assert "training LIDC-IDRI-000" in " ".join(report.remarks)
    (tmp_path / "lidc" / "LIDC-IDRI-0001" / "preprocessed.nii.gz").write_bytes(b"")
    assert "LIDC-IDRI-0001/preprocessed.nii.gz\tunusable" in wdm("eval", "sanity", "--fake", tmp_path / "lidc").out


@pytest.mark.parametrize(
    "name", ["labelsTr/v0.nii.gz", "v0_seg.nii.gz", "sub-01_desc-brain_mask.nii.gz", "case/segmentations/liver.nii.gz"]
)
def test_label_maps_beside_finished_volumes_are_left_out_and_named(tmp_path: Path, name: str) -> None:
    real, fake = (
        folder(tmp_path / "labels" / "real", 0),
        folder(tmp_path / "fake", 9),
    )  # the root's own name is no reason
    store(real / name, (body(0) > 0).astype(np.float32))
    report = all_scores(fake, real)
    assert report.protocol["real"]["n"] == 4
    assert any("1 files left out: label map or mask by its name" in t and name in t for t in report.warnings)
    assert f"{name}\tleft out\tlabel map" in wdm("eval", "sanity", "--fake", real).out


def samples(root: Path, first: int = 9, **changes: Any) -> Path:
    """Volumes with the run.json of `wdm sample`, in HU if the preset says so."""
    preset = small(data__image_size=16, **changes)
    folder(root, first)
    if preset.data.intensity == "fixed-window":
        low, high = preset.data.window
        for path in root.glob("*.nii.gz"):
            image = nib.load(path)
            array = np.rint(np.asarray(image.dataobj) * (high - low) + low).astype(np.int16)
            nib.save(nib.Nifti1Image(array, image.affine), path)
    about = {"protocol": {"sampler": "ddpm", "steps": 4, "seed": 0}, "preset": preset.to_dict()}
    (root / "run.json").write_text(json.dumps(about))
    return root


def test_raw_data_are_read_as_the_samples_preset_reads_them(tmp_path: Path) -> None:
    """Without an option: 32³ of any intensity become 16³ in [0, 1], and it is said."""
    fake, raw = samples(tmp_path / "fake", data__kind="nifti"), tmp_path / "raw"
    for index in range(4):
        store(raw / f"v{index}.nii.gz", 900 * body(index, (32, 32, 32)), spacing=1.0)
    volumes, words = open_real(raw, open_generated(fake))
    assert volumes.shape == (16, 16, 16)
    assert "as the samples' preset small reads its data (layout nifti, all cases, intensity paper)" in words
    (tmp_path / "preset.toml").write_text(
        '[model]\nbase_channels = 32\nchannel_multipliers = [1, 2]\n[data]\nkind = "nifti"\nimage_size = 16\n'
    )
    common = ("eval", "histogram", "--real", raw, "--fake", fake, "--quick", "--json")
    told, named = wdm(*common), wdm(*common, "--preset", tmp_path / "preset.toml")
    assert (told.code, named.code) == (0, 0), (told.err, named.err)
    assert json.loads(told.out)["scores"] == json.loads(named.out)["scores"]
    assert "real volumes: 4 of" in told.err
    assert "real volumes: 4 of" not in named.err


def test_the_window_of_samples_is_their_own_whatever_the_option(tmp_path: Path) -> None:
    fake = samples(tmp_path / "fake", data__kind="lidc-idri", data__intensity="fixed-window", data__window=[-160, 240])
    assert open_generated(fake, "fixed-window").intensity == open_generated(fake).intensity
    assert open_generated(fake).intensity.window == (-160, 240)
    hu = tmp_path / "hu"
    for index in range(4):
        store(hu / f"v{index}.nii.gz", (body(index) * 2000 - 1000).astype(np.float32))
    (hu / "run.json").write_text(
        json.dumps({"protocol": {"command": "nifti", "modality": "ct", "intensity": "fixed-window"}})
    )
    assert open_real(hu, open_generated(fake), scheme="fixed-window")[0].intensity.window == (-160, 240)
    theirs = folder(tmp_path / "theirs", 0)  # another tool's, in [0, 1]: the scales are unlike, and that is said
    real, _ = open_real(hu, open_generated(theirs))
    with pytest.raises(DataError, match="is read as"):
        evaluate.finish(evaluate.run([evaluate.MSSSIM(scales=1)], open_generated(theirs), real))


def options_of(*words: str) -> set[str] | None:
    """The options of a command of wdm; None if there is no such command."""
    command: Any = typer.main.get_command(app)
    for word in words:
        if word not in getattr(command, "commands", {}):
            return None
        command = command.commands[word]
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }


def check_hint(hint: str, *command: str) -> None:
    """Every option that a hint names exists on the command that it names, else on the one that failed."""
    for text in re.findall(r"wdm ((?:[a-z-]+ )*[^;`]*)", hint):
        words = re.match(r"[a-z]+(?: (?:fid|all|sanity|compare|lidc|mr|nifti|get))?", text)
        assert words
        known = options_of(*words[0].split())
        assert known, (hint, words[0])
        assert set(re.findall(r"--[a-z][a-z-]*", text)) <= known, hint
    own = re.sub(r"`?wdm [^;`]*", "", hint)
    known = options_of(*command)
    assert known
    assert set(re.findall(r"--[a-z][a-z-]*", own)) <= known, (hint, command)


@pytest.fixture(scope="module")
def unusable(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Path]]:
    """Pairs of folders, generated and real, that cannot be compared, each for another reason."""
    root = tmp_path_factory.mktemp("unusable")
    fake, told = folder(root / "fake", 9), samples(root / "told", data__kind="brats")
    hu = samples(root / "hu", data__kind="lidc-idri", data__intensity="fixed-window")
    damaged, raw, run = folder(root / "damaged", 0), root / "raw", root / "run"
    (damaged / "run.json").write_text("{")
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    for index in range(4):
        case = f"BraTS-GLI-0000{index}-000"
        store(raw / f"v{index}.nii.gz", 900 * body(index, (32, 32, 32)))
        store(root / "brats" / case / f"{case}-t2w.nii.gz", 900 * body(index))
        store(root / "lidc" / f"LIDC-IDRI-000{index}" / "preprocessed.nii.gz", body(index))
    reals = [(fake, raw), (told, raw), (told, root / "brats"), (hu, root / "lidc"), (fake, damaged), (fake, run)]
    return [*reals, (damaged, raw), (run, raw), (root / "nowhere", raw), (fake, root / "nowhere"), (fake, fake)]


COMMANDS = [("eval", kind) for kind in ("kid", "memorization", "sanity")] + [("report",)]
COMMANDS += [pytest.param(("eval", kind), marks=pytest.mark.slow) for kind in ("histogram", "msssim")]  # as kid does


@pytest.mark.parametrize("command", COMMANDS)
def test_hints_name_options_of_the_very_command(
    unusable: list[tuple[Path, Path]], tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extractor, "random_resnet", lambda seed: resnet.random_resnet(seed, depth=10))
    monkeypatch.setenv("WDM_CACHE_DIR", str(tmp_path / "cache"))
    known = options_of(*command) or set()
    hints = 0
    for fake, real in unusable:
        words = [*command, fake, "--out", tmp_path / "x.html"] if command == ("report",) else [*command, "--fake", fake]
        words += ["--real", real] if "--real" in known else []
        words += ["--weights", "random", "--device", "cpu"] if command[-1] == "kid" else []
        result = wdm(*words)
        assert "Traceback" not in result.err
        assert result.code in (2, 3) or command == ("eval", "sanity"), (words, result.err)
        for hint in re.findall(r"^  try: (.*)$", result.err, re.MULTILINE):
            hints += 1
            check_hint(hint, *command)
    assert hints >= (1 if command == ("eval", "sanity") else 8)
