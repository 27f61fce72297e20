"""Agreement with the official implementation, as the table of the README.

    python benchmarks/golden_agreement.py [--json FILE]

The golden values (tests/golden) were measured on pfriedri/wdm-3d (commit a93a7ef) and, for MS-SSIM, on MONAI,
with weights and inputs that tests/golden/recipe.py makes. Each row is the largest deviation over the values
compared, in the unit of its tolerance.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
sys.path.insert(0, str(GOLDEN.parent))

from golden import recipe  # noqa: E402

from wdm_cli.engine.data.transforms import factors, fit, needed, unit_mr  # noqa: E402
from wdm_cli.engine.diffusion import loss, make_schedule  # noqa: E402
from wdm_cli.engine.metrics.extractor import load_extractor  # noqa: E402
from wdm_cli.engine.metrics.fid import frechet_distance  # noqa: E402
from wdm_cli.engine.metrics.ssim import ms_ssim, prepare  # noqa: E402
from wdm_cli.engine.models import UNet, WavUNet  # noqa: E402
from wdm_cli.engine.samplers import DDPM  # noqa: E402
from wdm_cli.engine.spaces import Wavelet  # noqa: E402
from wdm_cli.engine.wavelet import decode, dwt  # noqa: E402

VALUES: dict[str, Any] = json.loads((GOLDEN / "golden.json").read_text())
KEYS: dict[str, Any] = json.loads((GOLDEN / "official_keys.json").read_text())
MSSSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALL = UNet(base_channels=32, channel_multipliers=(1, 2))


def worst(tensor: torch.Tensor, key: str) -> float:
    found, expected = recipe.digest(tensor), VALUES[key]
    return max(abs(a - b) for a, b in zip(found["value"], expected["value"], strict=True))


def network(settings: Any, name: str) -> torch.nn.Module:
    built = settings.build(8, 8).eval()
    built.load_state_dict(recipe.golden_state_dict(KEYS[name]))
    return built  # type: ignore[no-any-return]


def forward(settings: Any, name: str, size: int) -> float:
    """Largest deviation relative to the output's standard deviation."""
    key, half = f"{name}/forward/size{size}/seed1/t10", size // 2
    with torch.no_grad():
        out = network(settings, name)(recipe.normal((1, 8, half, half, half), 1), torch.tensor([10]))
    return worst(out, key) / VALUES[key]["std"]


def schedule() -> float:
    chain, index = make_schedule("linear", 1000), [0, 1, 499, 998, 999]
    of_x0, of_x_t = chain.posterior_mean_coefs
    tables = {"betas": chain.betas, "alphas_cumprod": chain.alpha_bar, "posterior_variance": chain.posterior_variance}
    tables |= {"posterior_mean_coef1": of_x0, "posterior_mean_coef2": of_x_t}
    expected = VALUES["schedule/linear1000"]
    return max(float(np.abs(table[index].numpy() - expected[name]).max()) for name, table in tables.items())


def training_loss() -> float:
    volume = 2 * torch.cat([recipe.smooth_volume(32, 5), recipe.smooth_volume(32, 9)]) - 1
    noise = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(3))
    chain = make_schedule("linear", 1000)
    space = Wavelet()
    x0, noise = space.encode(volume), dwt(noise).squeeze(2)
    bands = loss(network(SMALL, "unet_c32_m12"), x0, noise, torch.tensor([17, 800]), chain)  # type: ignore[arg-type]
    expected = np.array(VALUES["loss/unet_c32_m12/size32"]["mse_wav"])
    return float(np.abs(bands.detach().numpy() / expected - 1).max())


@torch.no_grad()
def sampling() -> float:
    stream = torch.Generator().manual_seed(42)

    def draw(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=stream)

    noise, denoise = draw(torch.empty(1, 8, 16, 16, 16)), network(SMALL, "unet_c32_m12")
    *_, coeffs = DDPM(steps=25).run(denoise, noise, make_schedule("linear", 1000), Wavelet().clamp, draw)  # type: ignore[arg-type]
    return worst((decode(coeffs) + 1) / 2, "sample/unet_c32_m12/size32/ddpm25/seed42")


def loader() -> float:
    raw, shape = recipe.brats_like_volume().astype(np.float32), (128, 128, 128)
    fitted = fit(unit_mr(raw), shape, factors(needed(raw.shape, shape), (1, 1, 1)))
    return worst(torch.from_numpy(fitted.array * 2 - 1), "brats_loader/size128")


def msssim() -> float:
    volumes = [recipe.smooth_volume(128, 100 + 10 * i) for i in range(4)]
    volumes.append((volumes[0] + 0.05 * recipe.normal((1, 1, 128, 128, 128), 77)).clamp(0, 1))
    prepared = [prepare(volume[0, 0].numpy(), 5) for volume in volumes]
    pairs = {name: tuple(map(int, name.split(","))) for name in VALUES["msssim/128/pairs"]}
    values = {name: ms_ssim(prepared[i], prepared[j], MSSSIM_WEIGHTS) for name, (i, j) in pairs.items()}
    return max(abs(value - VALUES["msssim/128/pairs"][name]) for name, value in values.items())


def features() -> float:
    state = recipe.golden_state_dict(KEYS["medicalnet_resnet50"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "resnet_50_23dataset.pth"
        torch.save({"state_dict": state}, file)
        found = load_extractor(str(file), device="cpu")(recipe.smooth_volume(128, 100)).flatten()
    expected = VALUES["fid/features128/volume0"]
    value = torch.tensor(expected["value"], dtype=torch.float64)
    return float((found.double()[expected["index"]] / value - 1).abs().max())


def frechet() -> float:
    draw = np.random.RandomState(21)
    a, n1, n2 = (draw.standard_normal(shape) for shape in ((500, 64), (400, 64), (64, 64)))
    return abs(frechet_distance(a, 1.2 * n1 @ (np.eye(64) + 0.1 * n2) + 0.3) / VALUES["fid/frechet"] - 1)


ROWS: list[tuple[str, str, float, Callable[[], float]]] = [
    ("U-Net forward, 32³", "relative to std", 2e-4, lambda: forward(UNet(), "ours_unet_128", 32)),
    ("WavU-Net forward, 64³", "relative to std", 2e-4, lambda: forward(WavUNet(), "ours_wnet_128", 64)),
    ("noise schedule, five tables", "absolute", 1e-12, schedule),
    ("loss, eight bands", "relative", 1e-5, training_loss),
    ("25 sampling steps, 32³", "absolute, [0, 1]", 1e-3, sampling),
    ("BraTS loader, 128³", "absolute, [−1, 1]", 1e-6, loader),
    ("MS-SSIM, four pairs at 128³", "absolute", 1e-5, msssim),
    ("MedicalNet features, 128³", "relative", 1e-3, features),
    ("Fréchet distance", "relative", 1e-6, frechet),
]


def measured() -> Iterator[dict[str, Any]]:
    for name, unit, tolerance, measure in ROWS:
        yield {"what": name, "unit": unit, "tolerance": tolerance, "deviation": measure()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    print("| what | largest deviation | tolerance | unit |\n|---|---|---|---|")
    rows = []
    for row in measured():
        rows.append(row)
        print(f"| {row['what']} | {row['deviation']:.1e} | {row['tolerance']:.0e} | {row['unit']} |", flush=True)
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"\n{machine}, {date.today()}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "date": str(date.today()), "rows": rows}, indent=2))
    if any(row["deviation"] > row["tolerance"] for row in rows):
        raise SystemExit("a deviation exceeds its tolerance")


if __name__ == "__main__":
    main()
