"""Pictures: upright whatever the affine, true proportions, legible, whole on disk."""

import itertools

import numpy as np
import pytest
from PIL import Image

from wdm_cli.engine.data.phantom import phantom
from wdm_cli.engine.data.volume import Volume
from wdm_cli.engine.picture import BACKGROUND, Group, mosaic, planes, save_png


def marked():
    """RAS: one bright voxel at the anterior and one at the superior end of the middle lines."""
    array = np.zeros((8, 10, 12), np.float32)
    array[4, 9, 6] = 2.0
    array[4, 5, 11] = 3.0
    return Volume(array, np.diag([2.0, 1.0, 3.0, 1.0]))


def test_patient_right_is_where_the_letter_says():
    """In RAS+ the first axis grows to the patient's right, so the highest i is shown on the left."""
    array = np.zeros((8, 10, 12), np.float32)
    array[7, 5, 6] = 1.0
    (axial, _), (coronal, _), _ = planes(Volume(array, np.eye(4)))
    assert np.argwhere(axial == 1).tolist() == [[4, 0]]
    assert np.argwhere(coronal == 1).tolist() == [[5, 0]]


def test_anterior_and_superior_point_up():
    (axial, size_a), (coronal, size_c), (sagittal, size_s) = planes(marked())
    assert np.argwhere(axial == 2)[0][0] == 0
    assert np.argwhere(coronal == 3)[0][0] == 0
    assert np.argwhere(sagittal == 3)[0][0] == 0
    assert np.argwhere(sagittal == 2)[0][1] == 0, "anterior is on the left of the sagittal plane"
    assert (axial.shape, coronal.shape, sagittal.shape) == ((10, 8), (12, 8), (12, 10))
    assert (size_a, size_c, size_s) == ((1.0, 2.0), (3.0, 2.0), (3.0, 1.0))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (-1, -1, 1), (-1, -1, -1)])
def test_the_picture_does_not_depend_on_how_the_array_lies(order, flips):
    array = np.random.default_rng(0).uniform(size=(7, 9, 11)).astype(np.float32)  # odd: the middle is the middle
    spacing = np.array([2.0, 1.0, 3.0])
    turned, affine = array.transpose(order), np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, world in enumerate(order):
        affine[world, axis] = flips[axis] * spacing[world]
        if flips[axis] < 0:
            turned = np.flip(turned, axis)
    for (got, size), (expected, expected_size) in zip(
        planes(Volume(turned, affine)), planes(Volume(array, np.diag([*spacing, 1]))), strict=True
    ):
        np.testing.assert_array_equal(got, expected)
        assert size == expected_size


def content(image):
    """Bounding box of what is bright."""
    return Image.fromarray((np.asarray(image.convert("L")) > 200).astype(np.uint8)).getbbox()


def test_proportions_come_from_the_spacing():
    volume = Volume(np.ones((10, 10, 10), np.float32), np.diag([1.0, 1.0, 4.0, 1.0]))
    image = mosaic([Group("", [volume])], (0, 1), tile=200)
    columns = np.asarray(image.convert("L"))
    assert (columns[:, 120] > 250).sum() == pytest.approx(50 + 200 + 200, abs=12)  # axial 50 high, the others 200


def test_small_volumes_are_enlarged_and_the_window_holds():
    volume = phantom(1, 32)
    image = mosaic([Group("real", [volume] * 2, ["a", "b"]), Group("synthetic", [volume] * 2)], (0, 1000), "caption")
    assert image.width > 4 * 128
    assert image.height > 3 * 128
    assert image.getpixel((0, 0)) == BACKGROUND
    pixels = np.asarray(image)
    assert pixels.max() > 240
    dark = mosaic([Group("real", [volume])], (2000, 3000))
    assert np.asarray(dark)[60:400, 60:150].max() < 200  # nothing but letters


def test_many_volumes_go_on_in_further_rows_and_empty_groups_vanish():
    volume = phantom(0, 8)
    one = mosaic([Group("x", [volume] * 8)], (0, 1000))
    more = mosaic([Group("x", [volume] * 9), Group("none", [])], (0, 1000))
    assert more.width == one.width
    assert more.height > 1.8 * one.height
    assert mosaic([], (0, 1)).width > 0


def test_long_names_and_captions_stay_inside():
    volume = phantom(0, 8)
    image = mosaic([Group("t" * 300, [volume], ["sub-" + "x" * 200])], (0, 1000), "word " * 60)
    pixels = np.asarray(image).astype(int)
    assert np.abs(pixels[:, -4:] - np.array(BACKGROUND)).max() == 0
    assert np.abs(pixels[-2:] - np.array(BACKGROUND)).max() == 0


def test_saved_whole(tmp_path):
    image = mosaic([Group("x", [phantom(0, 8)])], (0, 1000))
    save_png(tmp_path / "a.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(image))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
