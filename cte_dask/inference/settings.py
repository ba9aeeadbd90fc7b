"""How the networks of a run see its tiles, and what runs them."""

from __future__ import annotations

from dataclasses import dataclass, field

from cte_dask.tiles import Shape

__all__ = ["TORCH", "Inference", "Runtime"]


@dataclass(frozen=True, slots=True)
class Inference:
    """What the inference of all models of a run has in common.

    Parameters
    ----------
    tile
        Extent of a whole tile (z, y, x), voxels.
    device
        ``"cpu"`` or ``"cuda"``.
    precision
        ``"auto"``, ``"float32"``, ``"tf32"`` (on a GPU: float32 whose products are taken in TF32),
        ``"bfloat16"`` or ``"float16"``: the type of the weights and of all that a network computes.
    features
        Whether feature perturbations will be asked for.
    instances
        Whether instance labels will be asked for.
    time_limit
        Seconds that a network may take for one batch; None for what follows from its trial
        (`cte_dask.inference.time_limit`).
    """

    tile: Shape
    device: str = "cpu"
    precision: str = "float32"
    features: bool = True
    instances: bool = False
    time_limit: float | None = None


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs a model's passes, and what was found when it was tried.

    Parameters
    ----------
    name
        ``"torch"``, ``"openvino"`` or ``"inductor"``.
    speedup
        Time of a batch under PyTorch over that of the compiled passes; 0 if they were not timed.
    compile_seconds
        Wall time that compiling took.
    why
        Why the compiled passes were not taken, in one line; empty if they were, or not tried.
    """

    name: str = "torch"
    speedup: float = field(default=0.0, compare=False)
    compile_seconds: float = field(default=0.0, compare=False)
    why: str = field(default="", compare=False)

    def __str__(self) -> str:
        if self.why:
            return f"passes by torch: {self.why}"
        timed = f"{self.speedup:.2g} times as fast, " if self.speedup else ""
        return f"passes by {self.name}: {timed}compiled in {self.compile_seconds:.1f} s"

    def to_dict(self) -> dict[str, object]:
        """Return what was found as plain data; empty if nothing was tried."""
        found = {"speedup": self.speedup, "compile_seconds": self.compile_seconds}
        rounded = {key: round(value, 3) for key, value in found.items() if value}
        return {**rounded, **({"why": self.why} if self.why else {})}


TORCH = Runtime()
