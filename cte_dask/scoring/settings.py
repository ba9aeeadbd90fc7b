"""What a user may choose: each option once, with its type, its default and its help.

The command line makes an option of every field that has a help text, by the field's name or the one
that begins with ``--`` (`cte_dask.cli.options.expanded`); the public functions take the fields as
keywords (`keywords`), where an editor shows them and a type checker checks them. Fields without a
help text belong to Python alone.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, overload

from cte_dask.perturb import Perturbation, usual_strengths
from cte_dask.tiles import BlockGrid, Shape

__all__ = [
    "InferenceOptions",
    "OpeningOptions",
    "ScoringOptions",
    "TargetOptions",
    "keywords",
    "silent",
]

TARGET_HELP = (
    "The volume: path or URL of a zarr array or group, OME-Zarr image, N5 or precomputed volume, "
    "HDF5, TIFF or MRC file, or folder of planes; one image of several as PLACE::NAME."
)
METRICS_HELP = (
    "nhd: overlap of the foregrounds (IoU); ei: the same, weighed by the probabilities; vrand: "
    "agreement of the instances (pairs of voxels)."
)
UNITS_HELP = "Intensities are in units of the target's 1st to 99.8th percentile."
SCALES_HELP = (
    "Sizes at which networks see the target, such as 0.25,0.5,1,2: each model is a candidate at "
    "each of them. Default: 1, as it is."
)
PERTURB_HELP = (
    "What is disturbed: kind:strength, repeatable. Kinds and usual strengths: "
    f"{usual_strengths()}. {UNITS_HELP} Default: dropout:0.2, or mirror where a network cannot be "
    "opened; mirror and zoom:0.8 for banks of fewer than five models."
)

MOST_THREADS, MOST_BATCH = 64, 4096
"""Bounds of what is asked for; a machine of more cores may use as many threads."""


def silent(_: str) -> None:
    """Take a line of progress and show it nowhere."""


@dataclass(frozen=True, kw_only=True)
class OpeningOptions:
    """What is taken of a target: see `cte_dask.open_volume`."""

    level: Annotated[
        int | Literal["auto"],
        "Resolution to score: 0 the finest, or auto: by the models' voxel size.",
    ] = "auto"
    axes: Annotated[
        str | None, "Axes of an array that does not name them, such as zyx or tczyx."
    ] = None
    channel: Annotated[int | None, "Channel to score, from 0."] = None
    time: Annotated[int | None, "Time point to score, from 0."] = None
    roi: Annotated[str | None, "Score this region only, in voxels: z0:z1,y0:y1,x0:x1."] = None
    mask: Annotated[
        str | None, "Path or URL of an array; tiles where it is 0 throughout are skipped."
    ] = None
    anonymous: Annotated[bool, "TARGET is in a public bucket: send no credentials."] = False


@dataclass(frozen=True)
class TargetOptions(OpeningOptions):
    """A target, and what is taken of it."""

    target: Annotated[str, TARGET_HELP, "TARGET"]


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """The tiles, and how networks run on them.

    Parameters
    ----------
    tile
        Extent of a tile (z, y, x), voxels; by default as `cte_dask.scoring.resolve.default_tile`.
    seed
        Seed of every random draw.
    border
        Width in voxels of the band along reference borders that V^Rand leaves out.
    threads
        Torch's intra-op threads in a worker.
    batch
        Samples in one forward pass; None for what suits the device.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    precision
        ``"auto"``, ``"float32"``, ``"bfloat16"``, ``"float16"`` or, on GPUs, ``"tf32"``.
    runtime
        ``"torch"``, ``"openvino"``, ``"inductor"`` or ``"auto"`` (`cte_dask.scoring.runtimes`).
    time_limit
        Seconds that a network may take for one batch before it is given up; None for five minutes,
        or more where it was slow when it was tried (`cte_dask.inference.time_limit`).
    tell
        Receives one line of progress per step.
    """

    tile: Annotated[
        Shape | None, "Extent of a scored tile in voxels: z,y,x. Default: 1,256,256 (2D)."
    ] = None
    seed: Annotated[int, "Seed of every random draw."] = 0
    border: Annotated[int, "vrand: band in voxels along reference borders that is left out."] = 0
    threads: Annotated[int, "Threads of inference in each worker."] = 1
    batch: Annotated[
        int | None, "Images in one pass of a network; by default what suits the device."
    ] = None
    device: Annotated[str, "auto, cpu or cuda (an NVIDIA GPU)."] = "auto"
    precision: Annotated[str, "auto, float32, bfloat16, float16 or, on GPUs, tf32."] = "auto"
    runtime: Annotated[
        str,
        "What runs networks: torch; what compiles them, openvino on a processor, up to five times "
        "as fast, or inductor on a GPU; auto: that in long runs, where a trial proves it faster.",
    ] = "auto"
    time_limit: Annotated[
        float | None,
        "Seconds that a network may take for one batch before it is given up; by default 300, or "
        "more for one that was slow when it was tried.",
    ] = None
    tell: Callable[[str], None] = silent

    def __post_init__(self) -> None:
        """Refuse numbers that would take a machine down before anything is opened."""
        cores = os.cpu_count() or 1
        if self.threads > (most := max(MOST_THREADS, cores)):
            raise ValueError(
                f"threads must be at most {most}, not {self.threads}: this machine has {cores} "
                "cores, and a network gains nothing from more threads than cores"
            )
        if self.batch is not None and self.batch > MOST_BATCH:
            raise ValueError(
                f"batch must be at most {MOST_BATCH}, not {self.batch}: all of a batch is in "
                "memory at once; leave it out for what suits the device"
            )
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"time_limit must be above 0 seconds, not {self.time_limit:g}")


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(InferenceOptions):
    """What is measured; the options of `cte_dask.score` and `cte_dask.resolve`.

    Parameters
    ----------
    perturbations
        Names such as ``"dropout:0.2"`` or values; by default
        `cte_dask.scoring.defaults.default_perturbations`.
    metrics
        Names of metrics, the first one ranks.
    repeats
        N_pert, the perturbed runs of each perturbation.
    scales
        How much larger than it is networks see the target; each model is a candidate at each
        (`cte_dask.models.variants`). By default 1.
    rank_by
        ``"transfer"``: what the bank's models say of each other, times their consistency over all
        perturbations (`cte_dask.ranking.transfer`). ``"consistency"``: the first metric under the
        first perturbation alone, as in the paper. ``"auto"``: consistency if one perturbation is
        asked for, else transfer.
    block
        Tiles of a block (z, y, x); planned from chunks and halo by default.
    workers
        Number of workers the blocks should keep busy; None for one.
    sample
        Whether to measure the target's intensities; a plan does without.
    apart
        Whether models that bring code of their own are tried in a process of their own.
    runtimes
        Runtimes by the names of candidates, of the same run before; None if there is none.
    """

    perturbations: Annotated[Sequence[Perturbation | str] | None, PERTURB_HELP, "--perturb"] = None
    metrics: Annotated[
        Sequence[str],
        f"Repeatable, the first one ranks. {METRICS_HELP} Default: nhd.",
        "--metric",
    ] = ("nhd",)
    repeats: Annotated[int, "Perturbed runs of each perturbation."] = 1
    scales: Annotated[Sequence[float] | None, SCALES_HELP] = None
    rank_by: Annotated[
        str,
        "transfer: estimated F1 times consistency; consistency: the first metric and perturbation "
        "alone. auto: consistency if one --perturb is given, else transfer.",
    ] = "auto"
    block: Annotated[Shape | None, "Tiles read and scored together: z,y,x. Planned by default."] = (
        None
    )
    workers: Annotated[int | None, "Worker processes; by default one a core."] = None
    sample: bool = True
    apart: bool = False
    runtimes: Mapping[str, str] | None = None

    @property
    def budget(self) -> float | None:
        """Seconds that may be spent; None for as many as it takes."""
        return None

    def draws_blocks(self, _: int, /) -> bool:
        """Tell whether of so many blocks of a target some are drawn, rather than all scored."""
        return False

    def expected_blocks(self, blocks: BlockGrid, /, *, voting: bool) -> int:
        """Return the blocks that a model will be scored on: all, though who scores may stop.

        Parameters
        ----------
        blocks
            The blocks of the target.
        voting
            Whether models are compared by what the bank says.
        """
        return len(blocks)


A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
P = ParamSpec("P")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)


class _WithKeywords(Protocol[P, T_co]):
    @overload
    def __call__(
        self, function: Callable[[A, B, T_co], R], /
    ) -> Callable[Concatenate[A, B, P], R]: ...
    @overload
    def __call__(
        self, function: Callable[[A, B, C, T_co], R], /
    ) -> Callable[Concatenate[A, B, C, P], R]: ...


def keywords(options: Callable[P, T_co]) -> _WithKeywords[P, T_co]:
    """Let a function whose last parameter is a dataclass of options take its fields as keywords.

    Parameters
    ----------
    options
        The dataclass, all of whose fields are keywords.

    Returns
    -------
    decorator
        It decorates a function of two or three parameters and the options.
    """
    names = [f.name for f in fields(options)]  # type: ignore[arg-type]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        *leading, _ = inspect.signature(function).parameters.values()
        positional = inspect.Signature(leading)

        @functools.wraps(function)
        def call(*arguments: Any, **values: Any) -> Any:
            first = {p.name: values.pop(p.name) for p in leading if p.name in values}
            bound = positional.bind(*arguments, **first)
            if unknown := [name for name in values if name not in names]:
                raise TypeError(
                    f"{function.__name__} takes no {unknown[0]!r}: accepted are {', '.join(names)}"
                )
            return function(*bound.args, options(**values))  # type: ignore[call-arg]

        parameters = [
            p.replace(annotation=_bare(str(p.annotation)))
            for p in inspect.signature(options).parameters.values()
        ]
        call.__doc__ = _documented(function.__doc__ or "", options)
        call.__signature__ = positional.replace(  # type: ignore[attr-defined]
            parameters=[*leading, *parameters],
            return_annotation=inspect.signature(function).return_annotation,
        )
        return call

    return decorate


def _bare(annotation: str) -> str:
    """Return a type without its help text.

    >>> _bare("Annotated[int | None, 'Channel to score.']")
    'int | None'
    """
    expression = ast.parse(annotation, mode="eval").body
    if isinstance(expression, ast.Subscript) and ast.unparse(expression.value) == "Annotated":
        assert isinstance(expression.slice, ast.Tuple)
        return ast.unparse(expression.slice.elts[0])
    return annotation


def _documented(docstring: str, options: Any) -> str:
    """Return a docstring whose parameter ``options`` is replaced by the fields, as they stand."""
    sections = [
        inspect.cleandoc(base.__doc__ or "").partition("Parameters\n----------\n")[2]
        for base in reversed(options.__mro__)  # as the fields stand
        if is_dataclass(base)
    ]
    documented = textwrap.indent("\n".join(s.strip() for s in sections if s), "    ")
    return re.sub(r" {4}options\n(?: {8}.*\n)+", lambda _: f"{documented}\n", docstring, count=1)
