"""Opening a target for a bank: at the pyramid level that suits the models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cte_dask.errors import VolumeError
from cte_dask.models.described import described_bank
from cte_dask.storage import is_cloud
from cte_dask.volume import open_volume
from cte_dask.volume.channels import channel_indices

if TYPE_CHECKING:
    from cte_dask.models.bank import ModelBank
    from cte_dask.scoring.settings import TargetOptions
    from cte_dask.volume import Volume

__all__ = ["open_target", "training_voxel_size"]


def open_target(options: TargetOptions, bank: ModelBank) -> Volume:
    """Open a target at the pyramid level that suits the bank.

    A bank whose models all name their channels needs no ``channel``: the first one named stands in
    pictures.
    """
    mapped = options.channel is None and all(spec.channels for spec in described_bank(bank))
    volume = _opened(options, bank, channel=0 if mapped else options.channel)
    return _at_first_channel(volume, bank) if mapped else volume


def _at_first_channel(volume: Volume, bank: ModelBank) -> Volume:
    for spec in described_bank(bank):
        try:
            return volume.of_channel(channel_indices(volume, spec.channels)[0])
        except VolumeError:  # the model will be excluded with that reason
            continue
    return volume


def _opened(options: TargetOptions, bank: ModelBank, *, channel: int | None) -> Volume:
    anonymous = {"anonymous": True} if options.anonymous and is_cloud(options.target) else {}
    return open_volume(
        options.target,
        storage_options=anonymous,
        level=options.level,
        axes=options.axes,
        channel=channel,
        time=options.time,
        roi=options.roi,
        mask=options.mask,
        training_voxel_size=training_voxel_size(bank),
    )


def training_voxel_size(bank: ModelBank) -> tuple[float | None, float, float] | None:
    """Return the median of the voxel sizes (nanometre, zyx) that a bank's models declare."""
    import statistics

    sizes = [s for m in described_bank(bank) if (s := m.voxel_size_nm) is not None]
    if not sizes:
        return None
    depths = [z for z, _, _ in sizes if z is not None]
    return (
        statistics.median(depths) if depths else None,
        statistics.median(y for _, y, _ in sizes),
        statistics.median(x for _, _, x in sizes),
    )
