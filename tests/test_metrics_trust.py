"""Floor, intervals, protocol stamps and comparisons."""

import dataclasses
import json

import numpy as np
import pytest

from wdm_cli.engine.errors import DataError
from wdm_cli.engine.metrics import FID, KID, PRDC
from wdm_cli.engine.metrics.compare import compare
from wdm_cli.engine.metrics.metric import FeatureMetric
from wdm_cli.engine.metrics.report import Report, Score, read_report
from wdm_cli.engine.metrics.uncertainty import floor, half_widths


class MeanDifference(FeatureMetric):
    """A score whose standard error is known."""

    def score(self, real, fake, seed):
        return {"difference": float(fake.mean() - real.mean())}


MEAN = MeanDifference(kind="mean")


def test_interval_of_a_difference_of_means():
    rng = np.random.default_rng(0)
    widths = []
    for _ in range(40):
        real, fake = rng.normal(size=(200, 1)), rng.normal(scale=2, size=(100, 1))
        widths.append(half_widths(MEAN, real, fake, seed=0)["difference"])
    expected = 2.101 * np.sqrt(1 / 200 + 4 / 100)
    assert np.mean(widths) == pytest.approx(expected, rel=0.1)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        real, fake = rng.normal(size=(60, 1)), rng.normal(size=(60, 1))
        hits += abs(MEAN.score(real, fake, 0)["difference"]) <= half_widths(MEAN, real, fake, 0)["difference"]
    assert 0.9 <= hits / 200 <= 0.99


def test_no_interval_from_too_few_volumes():
    rows = np.random.default_rng(2).normal(size=(19, 3))
    assert half_widths(FID(), rows, rows, seed=0) == {}
    assert floor(PRDC(k=5), rows[:11], rows, seed=0) is None
    assert floor(FID(), rows[:3], rows, seed=0) is None


def test_floor_compares_at_its_own_n():
    """FID grows as n falls: the generated volumes are therefore scored at the floor's n too."""
    rng = np.random.default_rng(3)
    real, fake = rng.normal(size=(80, 20)), rng.normal(size=(80, 20))
    found = floor(FID(), real, fake, seed=0)
    assert found.n == 40
    assert found.real["fid"] > FID().score(real, fake, 0)["fid"]  # at n = 80 less bias than at 40
    assert found.fake["fid"] == pytest.approx(found.real["fid"], rel=0.3)  # one distribution: nothing to find
    far = floor(KID(), real, fake + 1, seed=0)
    assert far.fake["kid"] > 10 * abs(far.real["kid"])


STAMP = {
    "metrics": {"fid": {"kind": "fid"}},
    "real": {"folder": "real", "n": 100, "files_sha256": "a"},
    "fake": {"folder": "fake", "n": 100, "files_sha256": "b"},
    "shape": [16, 16, 16],
    "intensity": {"scheme": "paper"},
    "extractor": {"name": "net", "sha256": "c"},
    "seed": 0,
    "versions": {"wdm": "1"},
}


def report(value, half_width=0.3, **changes):
    return Report((Score("fid", "fid", value, "lower = closer", half_width),), STAMP | changes)


def test_differences_have_the_joint_interval():
    (near,), warnings = compare(report(1.0), report(1.4))
    (far,), _ = compare(report(1.0), report(1.5, 0.39))
    assert near.half_width == pytest.approx(0.3 * 2**0.5)
    assert (near.verdict, far.verdict) == ("no difference shown", "differs")
    assert warnings == []
    (unknown,), _ = compare(report(1.0), report(2.0, None))
    assert unknown.verdict == "no interval"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"shape": [32, 32, 32]}, "shape"),
        ({"intensity": {"scheme": "fixed-window"}}, "intensity"),
        ({"extractor": STAMP["extractor"] | {"sha256": "d"}}, "extractor"),
        ({"real": STAMP["real"] | {"files_sha256": "e"}}, "other real volumes"),
        ({"metrics": {"fid": {"kind": "fid", "k": 3}}}, "fid settings"),
        ({"fake": STAMP["fake"] | {"n": 50}}, "unequal n"),
    ],
)
def test_unlike_protocols_are_refused_with_the_difference(changes, word):
    with pytest.raises(DataError, match=word):
        compare(report(1.0), report(1.0, **changes))


def test_unequal_n_only_if_asked_and_other_versions_are_said():
    changes = {"fake": STAMP["fake"] | {"n": 50}, "versions": {"wdm": "2"}}
    _, warnings = compare(report(1.0), report(1.0, **changes), unequal_n=True)
    assert "unequal n" in warnings[0]
    assert "other versions: wdm 1 and 2" in warnings[1]


def test_nothing_in_common():
    other = dataclasses.replace(report(1.0), scores=(Score("kid", "kid", 0.0, "lower = closer"),))
    with pytest.raises(DataError, match="no score in common"):
        compare(report(1.0), other)


def test_reports_go_through_their_file(tmp_path):
    path = tmp_path / "eval.json"
    path.write_text(json.dumps(report(1.0).to_dict()))
    assert read_report(path) == report(1.0)
    for text in ("{", "[]", '{"format": "other"}', '{"format": "wdm-eval-1"}'):
        path.write_text(text)
        with pytest.raises(DataError, match="not a result"):
            read_report(path)
    with pytest.raises(DataError, match="cannot read"):
        read_report(tmp_path / "none.json")
