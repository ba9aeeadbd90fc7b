"""DeclaredVoxelSize: the voxel size of the training data as a bank declares it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cte_dask.models.yaml import Strict

__all__ = ["NANOMETRES", "DeclaredVoxelSize"]

NANOMETRES = {"angstrom": 0.1, "nanometer": 1.0, "micrometer": 1e3, "millimeter": 1e6}
"""Nanometres of each unit that a bank may use."""


class DeclaredVoxelSize(Strict):
    """The training voxel size as the bank declares it, in any unit; a 2D model needs no ``z``."""

    z: float | None = Field(default=None, gt=0)
    y: float = Field(gt=0)
    x: float = Field(gt=0)
    unit: Literal["angstrom", "nanometer", "micrometer", "millimeter"]
