"""Which models each example bank holds and what distinguishes them."""

from __future__ import annotations

from dataclasses import dataclass, field

from .augment import FULL, PLAIN, Augmentation

FEATURES = (8, 16, 32, 64)
PEAK_RATE, BATCH = 4e-3, 8


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    Parameters
    ----------
    pack
        Name of the pack of images, without ``.npz``.
    arguments
        Of :class:`cte_dask.models.unet.UNet`, beyond ``dims``.
    length
        Steps as a fraction of the command line's ``--steps``.
    early
        Further models kept of the same run: the name of each, and the fraction of the run's steps
        after which.
    rate
        Highest learning rate of the schedule.
    batch
        Crops of a step.
    mixed
        Whether convolutions are computed in bfloat16 (weights, sums and the loss stay float32):
        nearly twice as fast on processors with such instructions, and slower on others.
    dropout
        Rate of spatial dropout in training.
    """

    name: str
    pack: str
    arguments: dict[str, object] = field(default_factory=lambda: {"features": list(FEATURES)})
    augmentation: Augmentation = FULL
    length: float = 1.0
    early: tuple[tuple[str, float], ...] = ()
    rate: float = PEAK_RATE
    batch: int = BATCH
    mixed: bool = False
    dropout: float = 0.1


@dataclass(frozen=True)
class Bank:
    """A bank to train, with the voxel size in nanometre of each of its packs, where known."""

    recipes: tuple[Recipe, ...]
    voxel_nm: dict[str, float] = field(default_factory=dict)


NUCLEI = Bank(
    tuple(
        Recipe(f"nuclei-{domain}", pack)
        for domain, pack in {
            "mixed256": "n_dsb_a256_mixed",
            "fibro256": "n_dsb_b256_fibro",
            "clump256": "n_dsb_c256_clump",
            "large360": "n_dsb_e360_large",
            "u2os-sharp": "n_dsb_d1_u2os_sharp",
            "blurry": "n_dsb_d2_blurry",
            "highmag": "n_dsb_d3_highmag",
            "rpe1": "n_mnf_rpe1",
            "u2os": "n_mnf_u2os",
        }.items()
    )
)

_EPFL, _VNC = "m_epfl_10nm", "m_vnc_9nm"
_WIDE: dict[str, object] = {"features": [12, 24, 48, 80]}
_GROUP: dict[str, object] = {"features": list(FEATURES), "norm": "group"}

# Two sources only, so the bank varies what the models of a real zoo vary besides.
MITOCHONDRIA = Bank(
    (
        Recipe("epfl", _EPFL, early=(("epfl-early", 0.4),)),
        Recipe("epfl-plain", _EPFL, augmentation=PLAIN, length=0.6),
        Recipe("epfl-wide-short", _EPFL, arguments=_WIDE, length=0.4),
        Recipe("vnc", _VNC, early=(("vnc-early", 0.12),)),
        Recipe("vnc-plain", _VNC, augmentation=PLAIN, length=0.6),
        Recipe("vnc-group", _VNC, arguments=_GROUP, length=0.8),
    ),
    {_EPFL: 10.0, _VNC: 9.2},
)

BANKS = {"nuclei": NUCLEI, "mitochondria": MITOCHONDRIA}
