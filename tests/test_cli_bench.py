"""wdm bench: the real command on the smallest model."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from command import sets, wdm
from small import SETS, small

from wdm_cli.engine.bench import flops_of, timed
from wdm_cli.engine.spaces import Wavelet


@pytest.mark.slow
def test_bench_measures_everything_and_says_against_what() -> None:
    result = wdm("bench", "--preset", "tiny", "--steps", "2", "--device", "cpu", "--json", *sets(*SETS))
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert [f["name"].split(",")[0].split(" of ")[0] for f in found["figures"]] == [
        "matrix product 2048²",
        "copy",
        "transform",
        "inverse transform",
        "sampling step",
        "training step",
        "training step with loading",
    ]
    assert all(0 < f["least"] <= f["seconds"] <= f["most"] for f in found["figures"])
    assert found["figures"][0]["share_of_limit"] == found["figures"][1]["share_of_limit"] == 1
    assert found["preset"]["name"] == "tiny"
    assert found["versions"]["torch"] == torch.__version__


def test_flops_are_those_of_the_convolutions() -> None:
    preset = small(model__channel_multipliers=[1], model__dropout=0.0, train__batch_size=3)
    forward, step = flops_of(preset)
    # grid 4³, 8 channels: stem, two blocks down and middle …, each 3×3×3 convolution 2·27·8·8·64
    one = 2 * 27 * 8 * 8 * 4**3
    layers = 1 + 2 * (1 + 2 + 2) + 1  # stem, blocks of encoder, middle and decoder, head
    linears = 2 * (8 * 32 + 32 * 32) + 5 * 2 * 32 * 8
    assert forward == pytest.approx(layers * one + linears, rel=0.01)
    assert step == pytest.approx(3 * 3 * forward, rel=0.1)  # backward is twice the forward, for three volumes


def test_flops_of_wavelets_that_are_matrix_products() -> None:
    preset = small(model__dropout=0.0)
    haar, other = (flops_of(dataclasses.replace(preset, space=Wavelet(wavelet=w)))[0] for w in ("haar", "db2"))
    assert haar < other < 1.2 * haar  # of one volume, into the space of the network and its noise


def test_timed_gives_the_median_of_the_runs() -> None:
    calls = []
    timing = timed("work", lambda: calls.append(1), torch.device("cpu"), repeats=3, flops=5.0)
    assert len(calls) == 4
    assert 0 < timing.least <= timing.seconds <= timing.most
    assert timing.flops == 5.0
