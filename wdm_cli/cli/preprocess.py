"""wdm preprocess: from an archive of scans to training volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from wdm_cli.cli.options import JsonOption
from wdm_cli.cli.preprocess_work import Run, execute, headers, millimetres, one_thread_a_process, sides

app = typer.Typer(help="Turn an archive of scans into training volumes.", no_args_is_help=True)

OutOption = Annotated[Path, typer.Option("--out", help="Folder for the volumes; the same command again continues.")]
IntensityOption = Annotated[
    Literal["paper", "fixed-window"],
    typer.Option("--intensity", help="paper: quantile and min-max to [0, 1]; fixed-window: int16 HU (CT only)."),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes, each up to 2.5 GB. Default: one a CPU, at most 8.")
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Stop at the first case that cannot be used.")]
DicomOption = Annotated[Path, typer.Option("--dicom-dir", help="Folder of DICOM files, nested in any way.")]
SeriesPolicyOption = Annotated[
    Literal["all", "thinnest", "first"],
    typer.Option("--series-policy", help="Series of a patient to keep: all, thinnest or first."),
]
IrregularOption = Annotated[
    Literal["skip", "resample"],
    typer.Option("--on-irregular", help="Uneven slice distances: skip, or resample by true positions."),
]
GapOption = Annotated[int, typer.Option("--max-gap", help="Missing slices in a row to interpolate, 0 to 3.")]
SPACING = "mm of a voxel: one number, or three along right, anterior, superior: 0.8,0.8,5."
SpacingOption = Annotated[str | None, typer.Option("--spacing", metavar="MM", help=f"{SPACING} Default: keep it.")]
SizeOption = Annotated[
    str | None,
    typer.Option("--size", metavar="N", help="Voxels a side: one number or three. Default: keep what is there."),
]
TiltOption = Annotated[
    Literal["skip", "resample"],
    typer.Option("--tilt", help="Volumes that lean (tilted gantry): skip, or resample (shear back)."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Remove what an earlier run made and start anew.")]


@app.command()
def lidc(
    dicom_dir: DicomOption,
    out: OutOption = Path("data/LIDC-IDRI"),
    size: Annotated[
        str,
        typer.Option(
            "--size", metavar="N", help="Voxels a side, one number or three; the middle is kept, −1000 HU is added."
        ),
    ] = "256",
    spacing: Annotated[str, typer.Option("--spacing", metavar="MM", help=SPACING)] = "1",
    intensity: IntensityOption = "paper",
    workers: WorkersOption = None,
    series_policy: SeriesPolicyOption = "all",
    on_irregular: IrregularOption = "skip",
    on_duplicate: Annotated[
        Literal["skip", "first"],
        typer.Option("--on-duplicate", help="Different pixels at a few positions: skip, or keep what was made first."),
    ] = "skip",
    max_gap: GapOption = 0,
    tilt: Annotated[
        Literal["skip", "resample"], typer.Option("--tilt", help="Tilted gantry: skip, or resample (shear back).")
    ] = "skip",
    strict: StrictOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """CT series of LIDC-IDRI or any archive, as CASE/preprocessed.nii.gz. The DICOM files are only read."""
    one_thread_a_process()
    from wdm_cli.engine.dicom import Policy
    from wdm_cli.engine.preprocess import Target, plan_lidc

    policy = Policy(
        on_irregular=on_irregular,
        on_duplicate=on_duplicate,
        series=series_policy,
        max_gap=max_gap,
        tilt=tilt,
    )
    target = Target(size=sides(size), spacing=millimetres(spacing), intensity=intensity)
    options = Run(workers, strict, overwrite, as_json)
    execute(lambda: plan_lidc(headers(dicom_dir), dicom_dir, policy, target), dicom_dir, out, options)


@app.command()
def mr(
    dicom_dir: DicomOption,
    out: OutOption = Path("data/MR"),
    protocol: Annotated[
        str, typer.Option("--protocol", help="Only series so named, a regular expression: 'mprage|spgr'.")
    ] = "",
    size: SizeOption = None,
    spacing: SpacingOption = None,
    workers: WorkersOption = None,
    series_policy: SeriesPolicyOption = "all",
    on_irregular: IrregularOption = "skip",
    max_gap: GapOption = 0,
    strict: StrictOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """MR series of ADNI or any DICOM archive, as CASE.nii.gz in RAS order and [0, 1]. The source is only read."""
    one_thread_a_process()
    from wdm_cli.engine.dicom import Policy
    from wdm_cli.engine.preprocess import Target, plan_mr

    policy = Policy(on_irregular=on_irregular, series=series_policy, max_gap=max_gap)
    target = Target(modality="mr", size=sides(size), spacing=millimetres(spacing))
    options = Run(workers, strict, overwrite, as_json)
    execute(lambda: plan_mr(headers(dicom_dir), dicom_dir, policy, target, protocol), dicom_dir, out, options)


@app.command()
def nifti(
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="Folder of NIfTI, NRRD, MetaImage, Analyze or FreeSurfer (.mgz) files.")
    ],
    out: OutOption = Path("data/NIFTI"),
    modality: Annotated[Literal["mr", "ct"], typer.Option("--modality", help="ct: intensities are HU.")] = "mr",
    size: SizeOption = None,
    spacing: SpacingOption = None,
    intensity: IntensityOption = "paper",
    label_maps: Annotated[
        Literal["leave", "take"],
        typer.Option("--label-maps", help="Label maps and masks, by name or content: leave, or take as volumes."),
    ] = "leave",
    tilt: TiltOption = "skip",
    workers: WorkersOption = None,
    strict: StrictOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Volumes of any kind, as CASE.nii.gz in RAS order. The source is only read."""
    one_thread_a_process()
    from wdm_cli.engine.preprocess import Target, plan_nifti

    grid = {"size": sides(size), "spacing": millimetres(spacing)}
    target = Target(modality=modality, intensity=intensity, tilt=tilt, **grid)
    options = Run(workers, strict, overwrite, as_json)
    execute(lambda: plan_nifti(data_dir, target, label_maps), data_dir, out, options)


@app.command()
def brats(
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Folder of BraTS cases, of any year.")],
    out: OutOption = Path("data/BRATS"),
    size: SizeOption = None,
    spacing: SpacingOption = None,
    tilt: TiltOption = "skip",
    workers: WorkersOption = None,
    strict: StrictOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """BraTS cases as CASE/CASE-t1n.nii.gz (all contrasts), in RAS order and [0, 1]. The source is only read."""
    one_thread_a_process()
    from wdm_cli.engine.preprocess import Target, plan_brats

    target = Target(modality="mr", size=sides(size), spacing=millimetres(spacing), tilt=tilt)
    execute(lambda: plan_brats(data_dir, target), data_dir, out, Run(workers, strict, overwrite, as_json))
