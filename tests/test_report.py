"""wdm report: one page that is whole, true to its folders, safe to open, and small; and the model card."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from browser import CHROMIUM, Browser
from command import wdm
from PIL import Image
from small import SETS, TABLES

from wdm_cli.engine.data.phantom import write_phantoms
from wdm_cli.engine.data.volume import Volume, read_nifti, write_nifti
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.evaluate import finish
from wdm_cli.engine.metrics.volumes import Intensity, open_folder
from wdm_cli.engine.metrics_log import columns_of
from wdm_cli.engine.model_card import write_card
from wdm_cli.engine.report import Settings, build, look, read_samples, viewer
from wdm_cli.engine.spaces import Wavelet

HOSTILE = "<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """What stands in a page: texts, tags with their attributes, data scripts by name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.data: dict[str, str] = {}
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        self.inside = [found.get("id", tag)] if tag in ("script", "style") else []

    def handle_endtag(self, tag: str) -> None:
        self.inside = []

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.data[self.inside[0]] = data
        elif data.strip():
            self.texts.append(data.strip())

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    @property
    def volumes(self) -> dict[str, str]:
        """Names of the viewer's volumes and their data."""
        return {a["data-name"]: self.data[a["data-volume"]] for a in self.of("figure") if "data-volume" in a}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps on four phantoms, and three samples of it."""
    root = tmp_path_factory.mktemp("report")
    write_phantoms(root / "data", 4, 8)
    sets = [part for text in [*SETS, "train.log_every=2", "train.preview_every=3"] for part in ("--set", text)]
    result = wdm("train", "--preset", "tiny", "--data-dir", root / "data", "--out", root / "run", "--steps", 6, *sets)
    assert result.code == 0, result.err
    result = wdm("sample", "-n", 3, "--run", root / "run", "--out", root / "samples", "--seed", 7)
    assert result.code == 0, result.err
    return root


def report(*arguments: object) -> Page:
    result = wdm("report", *arguments)
    assert result.code == 0, result.err
    return Page(Path(result.out.strip().splitlines()[-1]).read_text(encoding="utf-8"))


def test_the_page_tells_the_whole_story(made: Path, tmp_path: Path) -> None:
    page = report(made / "run", made / "samples", "--out", tmp_path / "page.html")
    for heading in (
        *("To be aware of", "How the volumes look", "Means and histograms", "Scores", "Nearest real volumes"),
        *("Training", "Methods, to paste", "Where it comes from"),
    ):
        assert heading in page.texts
    assert "not for diagnosis" in page.text
    assert "seeds 7 to 9" in page.text
    assert "trained for 6 steps" in page.text.replace("\n", " ")
    assert "sampled with dpm++ in 4 steps on the time grid log-snr from" in page.text.replace("\n", " ")
    assert "@inproceedings{friedrich2024wdm" in page.text
    assert len(page.of("svg")) == 5  # histogram, loss, bands, learning rate, seconds
    checkpoint = made / "run" / "checkpoints" / "step_0000006.pt"
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() in page.text
    assert any("right is on the left" in text.lower() for text in page.texts)
    assert any("pass it on only as the data may be passed on" in text for text in page.texts)


def test_the_page_needs_nothing_else(made: Path, tmp_path: Path) -> None:
    page = report(made / "samples", "--out", tmp_path / "page.html")  # the run is found by itself
    assert "Training" in page.texts
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "action", "poster"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
    policy = next(a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert all(image["alt"] for image in page.of("img"))
    assert "url(" not in page.data["style"]
    assert "@import" not in page.data["style"]


def test_the_viewer_gets_the_voxels_of_the_files(made: Path, tmp_path: Path) -> None:
    page = report(made / "samples", "--no-real", "--out", tmp_path / "page.html")
    assert list(page.volumes) == [f"synthetic sample_{i:06d}" for i in range(3)]
    for name, data in page.volumes.items():
        image = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(data)))
        file = read_nifti(made / "samples" / f"{name.split()[1]}.nii.gz")
        np.testing.assert_allclose(image.get_fdata(), file.array, atol=0.5 / 255 + 1e-6)
        np.testing.assert_allclose(image.affine, file.affine, atol=1e-5)
    assert "Real" not in page.text
    assert "pass it on" not in page.text


def test_real_volumes_stand_beside_and_are_scored(made: Path, tmp_path: Path) -> None:
    page = report(made / "run", made / "samples", "--show", 2, "--out", tmp_path / "page.html")
    sides = [name.split()[0] for name in page.volumes]
    assert sides == ["synthetic"] * 2 + ["real"] * 2
    assert "Real, 2 of 4" in page.texts
    assert "spectrum" in page.texts
    assert "n_copies" in page.texts
    card = (made / "run" / "MODEL_CARD.md").read_text()
    assert "compared: 3 samples of training step 6 (files sha256 " in card
    assert ") with 4 training volumes" in card
    assert json.loads((made / "run" / "memorization.json").read_text())["protocol"]["real"]["n"] == 4


def test_scores_come_from_an_evaluation_of_these_samples_only(made: Path, tmp_path: Path) -> None:
    samples = shutil.copytree(made / "samples", tmp_path / "samples")
    common = ("--fake", samples, "--real", made / "data", "--preset", made / "run" / "preset.toml")
    result = wdm("eval", "fid", *common, "--weights", "random", "--out", samples / "eval.json")
    assert result.code == 0, result.err
    value = json.loads((samples / "eval.json").read_text())["scores"][0]["value"]
    page = report(samples, "--real", made / "data", "--no-neighbours", "--out", tmp_path / "page.html")
    assert f"{value:.5g}" in page.texts
    assert "spectrum" not in page.texts
    assert any("random" in text for text in page.texts)
    assert "Nearest real volumes" not in page.texts
    array = read_nifti(samples / "sample_000001.nii.gz")
    write_nifti(samples / "sample_000001.nii.gz", array.array[::-1].copy(), array.affine)
    result = wdm("report", samples, "--real", made / "data", "--out", tmp_path / "page.html")
    assert "scores of other files" in result.err
    page = Page((tmp_path / "page.html").read_text())
    assert f"{value:.5g}" not in page.texts
    result = wdm("report", samples, "--eval", samples / "eval.json", "--out", tmp_path / "other.html")
    assert (result.code, (tmp_path / "other.html").exists()) == (3, False)


def test_volumes_of_another_tool(tmp_path: Path) -> None:
    for index in range(3):
        volume = np.random.default_rng(index).random((12, 10, 8)).astype(np.float32)
        write_nifti(tmp_path / "theirs" / f"{HOSTILE.replace('/', '')} {index}.nii.gz", volume, np.eye(4))
    page = report(tmp_path / "theirs", "--out", tmp_path / "page.html", "--no-viewer")
    assert "how they were made is not recorded" in page.text
    assert "Training" not in page.texts
    assert not any(attributes.get("onerror") for attributes in page.of("img"))
    assert HOSTILE in page.text  # as text
    assert page.of("script") == []
    assert "Click a volume" not in page.text


def test_a_run_without_samples(made: Path, tmp_path: Path) -> None:
    page = report(made / "run", "--out", tmp_path / "page.html")
    assert "How the volumes look" not in page.texts
    assert len(page.of("svg")) == 4
    assert "samples while training: step_0000006.png" in page.texts


def test_what_cannot_be_is_said(made: Path, tmp_path: Path) -> None:
    for arguments, code, words in [
        ((made / "run", made / "run"), 2, "2 folders"),
        ((tmp_path / "nowhere",), 3, "no such folder"),
        ((made / "samples", "--real", made / "data", "--no-real"), 2, "exclude each other"),
        ((made / "samples", "--no-real", "--held-out", made / "data"), 2, "--held-out"),
        ((made / "run", "--eval", made / "run" / "run.json"), 2, "no samples are given"),
        ((made / "samples", "--steps", made / "run" / "run.json"), 3, "not the steps.json"),
        ((made / "data", "--out", tmp_path / "x.html"), 3, "do not lie in [0, 1]"),
    ]:
        result = wdm("report", *arguments)
        assert (result.code, words in result.err) == (code, True), result.err
        assert "Traceback" not in result.err
    assert not (tmp_path / "x.html").exists()
    (tmp_path / "mine.html").write_text("my own page")
    result = wdm("report", made / "samples", "--out", tmp_path / "mine.html")
    assert (result.code, (tmp_path / "mine.html").read_text()) == (2, "my own page")
    broken = shutil.copytree(made / "run", tmp_path / "broken")
    (broken / "run.json").write_text("{")
    assert "damaged" in wdm("report", broken).err


def test_damaged_folders_get_an_answer(made: Path, tmp_path: Path) -> None:
    about = json.loads((made / "run" / "run.json").read_text())
    for key, value in [("data", []), ("versions", ["wdm"]), ("argv", 7), ("preset", {"name": "x", "model": 3})]:
        run = shutil.copytree(made / "run", tmp_path / key)
        (run / "run.json").write_text(json.dumps(about | {key: value}))
        result = wdm("report", run)
        assert (result.code, "Traceback" in result.err) == (3, False), result.err
        assert str(run / "run.json") in result.err
    (tmp_path / "data" / "run.json").write_text(json.dumps(about))
    header = columns_of(Wavelet.columns)
    rows = "nan" + ",nan" * (len(header) - 1) + "\n2" + ",inf" * (len(header) - 1)
    (tmp_path / "data" / "metrics.csv").write_text(f"{','.join(header)}\n{rows}")
    assert "nothing to show yet" in report(tmp_path / "data").text
    steps = {"cells": {"a": {"sampler": "ddpm", "steps": 5, "scores": {"kid": {"value": "much"}}}}}
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    (tmp_path / "eval.json").write_text(
        json.dumps({"format": "wdm-eval-1", "warnings": [], "remarks": [], "protocol": {},
                    "scores": [{"metric": "fid", "name": "fid", "value": "low", "direction": ""}]})
    )  # fmt: skip
    for option, file in (("--steps", "steps.json"), ("--eval", "eval.json")):
        result = wdm("report", made / "samples", option, tmp_path / file, "--out", tmp_path / "page.html")
        assert (result.code, file in result.err, "Traceback" in result.err) == (3, True, False), result.err


def test_one_sample_and_samples_with_gaps(made: Path, tmp_path: Path) -> None:
    samples = shutil.copytree(made / "samples", tmp_path / "samples")
    (samples / "sample_000001.nii.gz").unlink()
    assert "seeds 7 to 9, 2 of these 3" in report(samples, "--out", tmp_path / "page.html").text
    (samples / "sample_000000.nii.gz").unlink()
    page = report(samples, "--out", tmp_path / "page.html")
    assert "seed 9." in page.text
    assert "a single volume: scores compare several" in page.texts


def test_ct_from_samples_to_hounsfield_units(tmp_path: Path) -> None:
    """Stored in HU, shown in two windows, packed with their values."""
    data = {"kind": "lidc-idri", "intensity": "fixed-window", "image_size": 8}
    preset = {"name": "ct", "data": data, "model": TABLES["model"]}
    about = {"protocol": {"sampler": "dpm++", "steps": 2, "seed": 0}, "preset": preset}
    hu = [np.random.default_rng(i).integers(-1000, 1000, (8, 8, 8)).astype(np.int16) for i in range(2)]
    for index, array in enumerate(hu):
        write_nifti(tmp_path / f"sample_{index:06d}.nii.gz", array, np.eye(4))
    (tmp_path / "run.json").write_text(json.dumps(about))
    page = report(tmp_path, "--out", tmp_path / "page.html")
    assert [a["data-low"] for a in page.of("button") if "data-low" in a] == ["-1350", "-160"]
    assert "lung: -1350 … 150 HU; soft tissue: -160 … 240 HU" in page.text
    image = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(page.data["volume-1"])))
    np.testing.assert_allclose(image.get_fdata(), hu[0], atol=1000 / 255 + 0.01)
    assert len(page.of("img")) == 2 * 2 + 1  # two windows of two volumes, and their mean


def test_ct_is_shown_in_lung_and_soft_tissue() -> None:
    volume = Volume(np.linspace(0, 1, 512, dtype=np.float32).reshape(8, 8, 8), np.eye(4))
    both = look.windows(Intensity("fixed-window", (-1000.0, 1000.0)), [volume])
    assert [(w.name, w.low, w.high, w.unit) for w in both] == [
        ("lung", -1350, 150, "HU"),
        ("soft tissue", -160, 240, "HU"),
    ]
    assert look.to_unit(both[1], Intensity("fixed-window", (-1000.0, 1000.0))) == pytest.approx((0.42, 0.62))
    (soft,) = look.windows(Intensity("fixed-window", (-160.0, 240.0)), [volume])
    assert soft.name == "soft tissue"
    (stored,) = look.windows(Intensity("fixed-window", (300.0, 900.0)), [volume])
    assert (stored.low, stored.high) == (300, 900)
    (mr,) = look.windows(Intensity("paper"), [volume])
    assert (mr.low, mr.high) == pytest.approx((0.0, 0.86), abs=0.02)  # of every second voxel
    (flat,) = look.windows(Intensity("paper"), [Volume(np.zeros((8, 8, 8), np.float32), np.eye(4))])
    assert flat.high > flat.low


def test_means_and_histograms_are_of_all_volumes(tmp_path: Path) -> None:
    arrays = [np.random.default_rng(i).random((8, 8, 8)).astype(np.float32) for i in range(3)]
    for index, array in enumerate(arrays):
        write_nifti(tmp_path / f"{index}.nii.gz", array, np.eye(4))
    found = finish(look.summarise(open_folder(tmp_path), "some"))
    np.testing.assert_allclose(found.mean.array, np.mean(arrays, axis=0), atol=1e-6)
    np.testing.assert_allclose(found.histogram, np.histogram(np.stack(arrays), look.BINS, (0, 1))[0] / 1536)


def test_volumes_are_packed_in_as_much_detail_as_fits() -> None:
    draw = np.random.default_rng(0)
    affine = np.array([[-2, 0, 0, 5], [0, 3, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1.0]])
    noise = [Volume(draw.random((33, 32, 32)).astype(np.float32), affine) for _ in range(2)]
    whole = viewer.pack(noise, (-1000, 1000), 10**9)
    assert (whole.factor, whole.levels) == (1, 256)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(whole.volumes[0])))
    np.testing.assert_allclose(image.get_fdata(), noise[0].array * 2000 - 1000, atol=1000 / 255 + 0.1)
    sizes = []
    for budget in (75_000, 20_000, 1_000):
        less = viewer.pack(noise, (0, 1), budget)
        sizes.append((less.factor, less.levels))
    assert sizes[0] == (1, 64)
    assert sizes[0] < sizes[1] < sizes[2]
    half = viewer.pack(noise, (0, 1), 20_000)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(half.volumes[1])))
    blocks = noise[1].array[:32].reshape(16, 2, 16, 2, 16, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(image.get_fdata(), blocks, atol=0.5 / (half.levels - 1) + 1e-6)
    centre = affine @ [0.5, 0.5, 0.5, 1]  # of the first block
    np.testing.assert_allclose(image.affine @ [0, 0, 0, 1], centre, atol=1e-5)


def test_the_vendored_viewer_is_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = viewer.facts()
    script = gzip.decompress(base64.b64decode(viewer.library()))
    assert hashlib.sha256(script).hexdigest() == facts["sha256"]
    assert facts["version"].encode() in script
    licences = viewer.asset("LICENSES.txt")
    for name in ("niivue 0.69.0", "fflate", "gl-matrix", "nifti-reader-js", "zarrita", "numcodecs", "Zstandard"):
        assert name in licences
    monkeypatch.setattr(viewer, "facts", lambda: facts | {"sha256": "0" * 64})
    with pytest.raises(DataError, match="was changed"):
        viewer.library()


def test_a_model_card_that_was_edited_is_left_alone(made: Path, tmp_path: Path) -> None:
    run = shutil.copytree(made / "run", tmp_path / "run")
    card = run / "MODEL_CARD.md"
    assert "trained for 6 steps" in card.read_text().replace("\n", " ")
    (run / "memorization.json").unlink(missing_ok=True)
    assert write_card(run)
    assert "Not measured yet" in card.read_text()
    mine = card.read_text().replace("Write it here.", "CC BY 4.0.")
    card.write_text(mine)
    assert not write_card(run)
    assert card.read_text() == mine
    card.unlink()
    for content in ("{", json.dumps({"format": "wdm-eval-1", "scores": [], "protocol": {"real": None, "fake": 3},
                                     "warnings": [], "remarks": []})):  # fmt: skip
        (run / "memorization.json").write_text(content)
        assert write_card(run)
        assert "memorization.json beside this file cannot be read" in card.read_text()
    card.unlink()
    card.mkdir()
    assert not write_card(run)
    sets = [part for text in [*SETS, "train.log_every=2", "train.preview_every=3"] for part in ("--set", text)]
    result = wdm("train", "--preset", "tiny", "--data-dir", made / "data", "--out", run, "--steps", 7, *sets)
    assert (result.code, "is left as it is" in result.err) == (0, True)


def pixels(path: Path) -> np.ndarray:
    """The canvas within a screenshot, in grey."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L")).astype(int)[100:-100, 100:-100]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_page_and_viewer(made: Path, tmp_path: Path) -> None:
    assert wdm("report", made / "run", made / "samples", "--out", tmp_path / "page.html").code == 0
    with Browser(tmp_path / "profile") as browser:
        browser.open(tmp_path / "page.html")
        assert browser.value_of("[...document.images].every(image => image.complete && image.naturalWidth > 50)")
        assert browser.value_of("document.getElementById('viewer').hidden")
        browser.value_of("document.querySelector('[data-volume]').click()")
        browser.wait_for("document.getElementById('viewer').dataset.shown === 'volume-1'")
        first = pixels(browser.screenshot(tmp_path / "first.png"))
        assert len(np.unique(first)) > 20  # grey levels: a volume is there
        browser.value_of("document.getElementById('viewer-back').click()")
        browser.wait_for("document.getElementById('viewer').dataset.shown === 'volume-7'")  # the last real one
        second = pixels(browser.screenshot(tmp_path / "second.png"))
        assert np.abs(first - second).max() > 20  # another volume
        browser.value_of("document.getElementById('viewer-close').click()")
        assert browser.value_of("document.getElementById('viewer').hidden")
        assert browser.troubles == []
        assert {address.split(":")[0] for address in browser.requests} <= {"file", "data", "blob"}
        assert len(browser.pdf(tmp_path / "page.pdf").read_bytes()) > 20_000


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_without_scripts_the_page_still_shows_everything_but_the_viewer(made: Path, tmp_path: Path) -> None:
    assert wdm("report", made / "samples", "--out", tmp_path / "page.html").code == 0
    with Browser(tmp_path / "profile", scripts=False) as browser:
        browser.open(tmp_path / "page.html")
        assert browser.value_of("[...document.images].every(image => image.naturalWidth > 50)")
        assert browser.value_of("getComputedStyle(document.getElementById('viewer')).display") == "none"


@pytest.mark.slow
def test_eight_volumes_at_128_fit_six_megabytes(tmp_path: Path) -> None:
    """Even of noise, which cannot be compressed."""
    draw = np.random.default_rng(0)
    for side in ("fake", "real"):
        for index in range(4):
            array = draw.random((128, 128, 128)).astype(np.float32)
            write_nifti(tmp_path / side / f"{index}.nii.gz", array, np.eye(4))
    samples = read_samples(tmp_path / "fake")
    page = finish(build(None, samples, open_folder(tmp_path / "real"), settings=Settings(neighbours=False)))
    assert len(page.text.encode()) <= 6_000_000
    assert "averaged over blocks of 2³ voxels" in page.text
    assert len(Page(page.text).volumes) == 8
