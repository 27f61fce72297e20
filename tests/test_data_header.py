"""Headers that lie about where voxels are: leaning axes, wrong units, forms that contradict each other or are empty."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from command import wdm

from wdm_cli.engine.data.facts import Facts, oddities
from wdm_cli.engine.data.header import refuse_impossible, shear
from wdm_cli.engine.data.nifti import Nifti
from wdm_cli.engine.data.volume import Volume, read_grid, read_nifti, write_nifti
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.preprocess import Target
from wdm_cli.engine.preprocess.nifti import prepare

RAMP = np.arange(8 * 9 * 10, dtype=np.float32).reshape(8, 9, 10)
KEEP = Target(modality="mr", size=None, spacing=None)


def leaning(degrees: float, axis: int = 2, towards: int = 1) -> np.ndarray:
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    affine[towards, axis] = affine[axis, axis] * np.tan(np.radians(degrees))
    return affine


def save(path: Path, array: np.ndarray = RAMP, affine: np.ndarray | None = None, **fields: object) -> Path:
    """Write with nibabel, then set raw fields of the header, whatever the library thinks of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    raw = bytearray(path.read_bytes())
    block = np.frombuffer(bytes(raw[:348]), nib.Nifti1Header.template_dtype).copy()
    for name, value in fields.items():
        block[name][...] = value
    raw[:348] = block.tobytes()
    path.write_bytes(bytes(raw))
    return path


@pytest.mark.parametrize(("axis", "towards"), [(2, 1), (2, 0), (0, 2), (1, 0)])
def test_a_volume_that_leans_is_refused_with_its_angle_everywhere(tmp_path: Path, axis: int, towards: int) -> None:
    path = save(tmp_path / "a.nii", affine=leaning(12.3, axis, towards))
    assert shear(read_nifti(path).affine) == pytest.approx(12.3, abs=1e-4)
    for use in (Nifti(image_size=16).load, lambda path: prepare(path, KEEP)):
        with pytest.raises(DataError, match=r"right angle by 12\.3°.*--tilt resample"):
            use(path)


def test_what_rounding_and_oblique_planes_explain_does_not_lean(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]  # of either hand
        affine = np.eye(4)
        affine[:3, :3] = turn.round(5) * rng.uniform(0.3, 6, 3)
        affine[:3, 3] = rng.normal(size=3) * 1000
        path = save(tmp_path / f"{number}.nii", affine=affine.astype(np.float32).astype(float))
        assert Nifti(image_size=16).prepare(path).facts.signs == ()
    Nifti(image_size=16).load(save(tmp_path / "little.nii", affine=leaning(0.09)))
    with pytest.raises(DataError, match="right angle"):
        Nifti(image_size=16).load(save(tmp_path / "more.nii", affine=leaning(0.11)))


@pytest.mark.parametrize(
    ("size", "code", "words"),
    [
        ((1, 1, 1), 1, "voxel size 1000×1000×1000 mm by their unit (metre, xyzt_units 1)"),
        ((1, 1, 1), 1, "the numbers (1×1×1) look like mm: set the unit to mm (xyzt_units 2)"),
        ((0.7, 0.7, 2.5), 3, "by their unit (micrometre, xyzt_units 3); the numbers (0.7×0.7×2.5) look like mm"),
        ((0.001, 0.001, 0.002), 2, "the numbers (0.001×0.001×0.002) look like metre"),
        ((700, 700, 1000), 0, "the numbers (700×700×1000) look like micrometre: set the unit to micrometre"),
        ((1, 1, 60), 2, "voxel size 1×1×60 mm"),
    ],
)
def test_voxels_of_a_size_that_nothing_has_are_refused_with_the_unit(
    tmp_path: Path, size: tuple[float, ...], code: int, words: str
) -> None:
    path = save(tmp_path / "a.nii", affine=np.diag([*size, 1.0]), xyzt_units=code)
    for use in (read_nifti, read_grid, lambda path: prepare(path, Target(modality="mr", size=None, spacing=1.0))):
        with pytest.raises(DataError) as caught:
            use(path)
        assert words in caught.value.what
        assert "memory" not in str(caught.value)


@pytest.mark.parametrize(("size", "code"), [((1e-3, 1e-3, 2e-3), 1), ((900, 900, 3000), 3), ((0.05, 0.05, 0.05), 2)])
def test_true_units_are_taken(tmp_path: Path, size: tuple[float, ...], code: int) -> None:
    read = read_nifti(save(tmp_path / "a.nii", affine=np.diag([*size, 1.0]), xyzt_units=code))
    np.testing.assert_allclose(read.spacing, np.multiply(size, {1: 1000, 2: 1, 3: 0.001}[code]), rtol=1e-6)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_other_formats_are_judged_alike(tmp_path: Path, suffix: str) -> None:
    image = SimpleITK.GetImageFromArray(RAMP)
    image.SetSpacing((0.001, 0.001, 0.001))
    SimpleITK.WriteImage(image, str(tmp_path / f"metre{suffix}"))
    with pytest.raises(DataError, match=r"voxel size 0\.001×0\.001×0\.001 mm by its header.*look like metre: store"):
        prepare(tmp_path / f"metre{suffix}", KEEP)
    image.SetSpacing((1, 1, 1))
    image.SetDirection((1, 0, 0, 0, 1, np.sin(0.2), 0, 0, np.cos(0.2)))
    SimpleITK.WriteImage(image, str(tmp_path / f"lean{suffix}"))
    with pytest.raises(DataError, match=r"right angle by 11\.5°"):
        prepare(tmp_path / f"lean{suffix}", KEEP)


@dataclass(frozen=True, kw_only=True)
class Stated(Nifti):
    """A format whose files state a size, as fastMRI's do."""

    def read(self, path: Path) -> Volume:
        return Volume(RAMP, np.diag([220.0, 220.0, 5.0, 1.0]))


def test_a_data_set_of_another_format_is_judged_alike(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"voxel size 220×220×5 mm by its header"):
        Stated(image_size=16).load(tmp_path / "a.h5")
    refuse_impossible(tmp_path, np.diag([0.3, 0.3, 0.3, 1]))


def sound_qform(path: Path, **fields: object) -> Path:
    """A file whose qform says 2 mm, LPS; fields come on top."""
    write_nifti(path, RAMP, np.array([[-2.0, 0, 0, 5], [0, -2, 0, 6], [0, 0, 2, 7], [0, 0, 0, 1]]))
    raw = bytearray(path.read_bytes())
    block = np.frombuffer(bytes(raw[:348]), nib.Nifti1Header.template_dtype).copy()
    for name, value in fields.items():
        block[name][...] = value
    path.write_bytes(block.tobytes() + bytes(raw[348:]))
    return path


@pytest.mark.parametrize("row", [0, np.nan, 1])
def test_the_qform_is_taken_where_the_sform_says_nothing(tmp_path: Path, row: float) -> None:
    path = sound_qform(tmp_path / "a.nii", srow_x=row, srow_y=row, srow_z=row)
    read = read_nifti(path)
    np.testing.assert_allclose(read.affine, [[-2, 0, 0, 5], [0, -2, 0, 6], [0, 0, 2, 7], [0, 0, 0, 1]])
    assert read.signs == ("sform",)
    assert prepare(path, KEEP).repairs == ("an empty or damaged sform: the qform is taken instead",)


def test_no_form_that_says_where_voxels_lie_names_both(tmp_path: Path) -> None:
    empty = {"srow_x": 0, "srow_y": 0, "srow_z": 0}
    for fields, words in (
        (empty | {"qform_code": 0}, "the sform is, and the qform is not set"),
        (empty | {"quatern_b": 2}, "the sform is, and the qform is no rotation"),
        (empty | {"quatern_b": np.nan}, "the sform is, and the qform is not finite"),
        ({"sform_code": 0, "quatern_b": 2}, "its orientation is damaged: the qform is no rotation"),
    ):
        with pytest.raises(DataError, match=words):
            read_nifti(sound_qform(tmp_path / "a.nii", **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"srow_x": (2.0, 0, 0, 5)},  # a flip
        {"srow_x": (2.0, 0, 0, 5), "sform_code": 4},  # no registration mirrors
        {"srow_x": (-2.05, 0, 0, 5), "sform_code": 4},  # what is a millimetre?
        {"srow_x": (-2.05, 0, 0, 5)},  # 2.5 % larger voxels
        {"srow_y": (0, -1.9975, 0.1, 6), "srow_z": (0, 0.1, 1.9975, 7)},  # turned by 2.9 degrees
        {"qform_code": 0, "pixdim": (1, 2.1, 2, 2, 0, 0, 0, 0)},  # sizes that nobody else states
        {"quatern_b": 2},  # a qform that is no rotation
    ],
)
def test_forms_that_contradict_each_other_are_told(tmp_path: Path, fields: dict[str, object]) -> None:
    read = read_nifti(sound_qform(tmp_path / "a.nii", **fields))
    assert read.signs == ("forms",)
    np.testing.assert_allclose(read.affine[0], fields.get("srow_x", (-2.0, 0, 0, 5)), rtol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"srow_x": (-2.01, 0, 0, 99)},
        {"qform_code": 0},
        {"sform_code": 0},
        # registered: the qform keeps the scanner's space, the sform says another one, as the standard has it
        {"srow_y": (0, -1.9696, 0.3473, 6), "srow_z": (0, 0.3473, 1.9696, 7), "sform_code": 2},
        {"srow_y": (0, -1.9696, 0.3473, 6), "srow_z": (0, 0.3473, 1.9696, 7), "sform_code": 4},
    ],
)
def test_forms_that_agree_are_not(tmp_path: Path, fields: dict[str, object]) -> None:
    assert read_nifti(sound_qform(tmp_path / "a.nii", **fields)).signs == ()


def test_qfac_of_0_means_1_as_the_standard_says(tmp_path: Path) -> None:
    path = sound_qform(tmp_path / "a.nii", sform_code=0, pixdim=(0, 2, 2, 2, 0, 0, 0, 0))
    np.testing.assert_allclose(np.diag(read_nifti(path).affine), (-2, -2, 2, 1))


def test_a_pair_of_slope_and_intercept_without_sense_is_ignored_and_told(tmp_path: Path) -> None:
    whole = RAMP.astype(np.int16)
    for slope, inter, odd in (
        (1, np.nan, True),
        (2, np.inf, True),
        (np.inf, 0, True),
        (np.nan, 3, False),
        (0, 3, False),
    ):
        read = read_nifti(save(tmp_path / "a.nii", whole, scl_slope=slope, scl_inter=inter))
        np.testing.assert_array_equal(read.array, RAMP)
        assert read.signs == (("scaling",) if odd else ())
    with pytest.raises(DataError, match=r"scl_slope 1e\+38 and scl_inter 0 .* make stored numbers infinite"):
        read_nifti(save(tmp_path / "a.nii", whole, scl_slope=1e38, scl_inter=0))
    with pytest.raises(DataError, match="1 voxels are NaN"):
        read_nifti(save(tmp_path / "a.nii", np.where(RAMP == 7, np.nan, RAMP), scl_slope=2, scl_inter=0))


@pytest.mark.slow
def test_verify_and_train_say_what_headers_leave_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDM_CACHE_DIR", str(tmp_path / "cache"))
    save(tmp_path / "d" / "a.nii", sform_code=0, qform_code=0)
    sound_qform(tmp_path / "d" / "b.nii", srow_x=(2.0, 0, 0, 5))
    save(tmp_path / "d" / "c.nii", RAMP.astype(np.int16), scl_slope=1, scl_inter=np.nan)
    sound_qform(tmp_path / "d" / "e.nii", srow_x=0, srow_y=0, srow_z=0)
    train = ("train", "--preset", "tiny", "--dataset", "nifti", "--steps", 1, "--set", "data.image_size=16")
    for command in (
        ("verify", tmp_path / "d", "--preset", "tiny", "--set", "data.image_size=16"),
        (*train, "--data-dir", tmp_path / "d", "--out", tmp_path / "run"),
    ):
        result = wdm(*command)
        assert result.code == 0, result.err
        for words in (
            "1 of 4 volumes (e.g. a) have a header that states no orientation",
            "1 of 4 volumes (e.g. b) have an sform that their qform or voxel sizes",
            "1 of 4 volumes (e.g. c) have an scl_slope or scl_inter",
            "1 of 4 volumes (e.g. e) have an empty or damaged sform",
            "`wdm preprocess nifti` (or `brats`) brings all to RAS",
        ):
            assert words in result.err


@pytest.mark.parametrize(("mm", "told"), [(0.946, False), (0.96, True)])
def test_voxel_sizes_that_rounding_parts_are_one(mm: float, told: bool) -> None:
    found = {
        name: Facts(
            sides=(8, 8, 8), spacing=(side,) * 3, orientation="RAS", factor=(1, 1, 1), lost=((0, 0),) * 3, low=0, high=9
        )
        for name, side in (("a", 0.944), ("b", mm))
    }
    assert any("more than one voxel size" in text for text in oddities(found)) == told
