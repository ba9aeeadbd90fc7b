"""The banks of the paper's experiment, as data: which networks are trained on what.

Fixed before any target is scored. The banks ``nuclei`` and ``mitochondria`` hold the finished
networks of every run from scratch; the zoos hold those, their early checkpoints, and variants
adapted to another domain, as a collection of published networks does.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
if (_examples := str(REPOSITORY / "examples")) not in sys.path:
    sys.path.append(_examples)

from training.augment import FULL, PLAIN, Augmentation  # noqa: E402 (found by the line above)
from training.fit import CROP, DECAY  # noqa: E402
from training.recipes import BANKS as SHIPPED  # noqa: E402
from training.recipes import BATCH, Recipe  # noqa: E402

EARLY = (0.15, 0.45)
STEPS, ADAPTING_STEPS, ADAPTING_RATE = 500, 80, 1e-3
INTENSITY = replace(FULL, zoom=0, flips=False)
SMALL, MIDDLE = (8, 16, 32, 64), (12, 24, 48, 96)
WIDE = ("mixed256", "u2os-sharp")
NUCLEI = {
    "mixed256": "n_dsb_a256_mixed",
    "fibro256": "n_dsb_b256_fibro",
    "clump256": "n_dsb_c256_clump",
    "large360": "n_dsb_e360_large",
    "u2os-sharp": "n_dsb_d1_u2os_sharp",
    "blurry": "n_dsb_d2_blurry",
    "highmag": "n_dsb_d3_highmag",
    "rpe1": "n_mnf_rpe1",
    "u2os": "n_mnf_u2os",
}
STAINED = {
    "he": "n_dsb_he",
    "purple": "n_dsb_brightfield",
    "glioblastoma": "n_gbm_he",
    "organs": "n_kmms_he",
}
"""Packs in colour; their nuclei are dark, and are made bright (``training.packs.read_pack``)."""
MITOCHONDRIA = {"epfl": "m_epfl_10nm", "vnc": "m_vnc_9nm"}
VOXEL_NM = {"m_epfl_10nm": 10.0, "m_vnc_9nm": 9.2}


@dataclass(frozen=True)
class Run:
    """One training.

    Parameters
    ----------
    recipe
        The network, its pack and its augmentation; its early checkpoints.
    steps, seed
        Of the training.
    scale
        Pixels along y and x are made this many times as many before training.
    start
        The model whose weights are trained further; None: trained from scratch.
    images
        How many images of the pack's train split are used; None: all.
    own_labels
        Whether the network is trained on its own predictions, not on the pack's labels.
    shipped
        Whether the weights come with the package and are taken from there.
    zoo_only
        Whether the finished model stands in the zoo alone, not in the task's bank.
    """

    recipe: Recipe
    steps: int
    seed: int
    scale: float = 1.0
    start: str | None = None
    images: int | None = None
    own_labels: bool = False
    shipped: bool = False
    zoo_only: bool = False

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that the run gives, the youngest first."""
        return (*(name for name, _ in self.recipe.early), self.name)

    @property
    def cost(self) -> float:
        """Roughly proportional to the time that the run takes."""
        if self.shipped:
            return 0.0
        width = self.recipe.arguments["features"][0]  # type: ignore[index]
        return self.steps * self.recipe.batch * float(width)

    @property
    def voxel_nm(self) -> float | None:
        size = VOXEL_NM.get(self.recipe.pack)
        return None if size is None else round(size / self.scale, 3)

    def digest(self, data: str, start: str | None) -> str:
        """Hash all that determines the weights; ``start``: the digest of the run started from."""
        fixed = {"crop": CROP, "decay": DECAY}
        content = {**asdict(self), **fixed, "data": data, "start_digest": start}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _arguments(features: tuple[int, ...], norm: str = "batch") -> dict[str, object]:
    return {"features": list(features), "norm": norm}


def _scratch(
    name: str,
    pack: str,
    seed: int,
    features: tuple[int, ...],
    *,
    norm: str = "batch",
    augmentation: Augmentation = FULL,
    length: float = 1.0,
    scale: float = 1.0,
    steps: int = STEPS,
    batch: int = BATCH // 2,
    zoo_only: bool = False,
) -> Run:
    checkpoints = tuple((f"{name}-at{round(100 * fraction)}", fraction) for fraction in EARLY)
    recipe = Recipe(
        name,
        pack,
        _arguments(features, norm),
        augmentation,
        early=checkpoints,
        batch=batch,
    )
    return Run(recipe, round(steps * length), seed, scale, zoo_only=zoo_only)


def _plain(word: str, seed: int) -> Run:
    """Return a run on one domain of nuclei without augmentation and dropout, as many are made."""
    recipe = Recipe(
        f"nuclei-{word}-plain",
        NUCLEI[word],
        _arguments(SMALL),
        PLAIN,
        batch=BATCH // 2,
        dropout=0.0,
    )
    return Run(recipe, STEPS, seed)


def _stained() -> tuple[Run, ...]:
    """Return the runs on tissue and smears, trained as the demonstration's models are."""
    return tuple(
        Run(Recipe(f"nuclei-{word}", pack), steps=1000, seed=130 + number)
        for number, (word, pack) in enumerate(STAINED.items())
    )


def _mitochondria(
    source: str, pack: str, seed: int, *, scale: float, small: float
) -> tuple[Run, ...]:
    """Return the runs on one source, which differ in what the models of a real zoo differ in."""
    return (
        _scratch(f"{source}-full", pack, seed, MIDDLE),
        _scratch(f"{source}-plain", pack, seed + 1, MIDDLE, augmentation=PLAIN, length=0.8),
        _scratch(f"{source}-intensity", pack, seed + 2, SMALL, augmentation=INTENSITY, length=0.8),
        _scratch(f"{source}-group", pack, seed + 3, SMALL, norm="group", length=0.8),
        _scratch(f"{source}-small", pack, seed + 4, SMALL, length=small),
        _scratch(f"{source}-scaled", pack, seed + 6, SMALL, length=small, scale=scale),
    )


def _adapted(start: Run, other: str, seed: int, *, images: int | None) -> Run:
    """Train a finished model briefly on another domain: on some labels, or on its own guesses."""
    word = "self" if images is None else "tuned"
    pack = {**NUCLEI, **MITOCHONDRIA}[other]
    recipe = replace(
        start.recipe, name=f"{start.name}-{word}-{other}", pack=pack, early=(), rate=ADAPTING_RATE
    )
    return Run(
        replace(recipe, batch=BATCH // 2),
        ADAPTING_STEPS,
        seed,
        start=start.name,
        images=images,
        own_labels=images is None,
        zoo_only=True,
    )


def _shipped() -> tuple[Run, ...]:
    """Return the runs that gave the nuclei models of the package's demonstration."""
    return tuple(
        Run(recipe, steps=1000, seed=number, shipped=True)
        for number, recipe in enumerate(SHIPPED["nuclei"].recipes)
    )


def _full() -> tuple[Run, ...]:
    nuclei = {run.name.removeprefix("nuclei-"): run for run in _shipped()}
    wide = (
        _scratch(
            f"nuclei-{word}-wide", NUCLEI[word], 100 + number, MIDDLE, length=0.6, zoo_only=True
        )
        for number, word in enumerate(WIDE)
    )
    plain = (_plain(word, 120 + number) for number, word in enumerate(NUCLEI))
    epfl = _mitochondria("epfl", "m_epfl_10nm", 200, scale=0.7, small=0.8)
    # After as few steps as on EPFL these find nothing yet in their own domain (F1 below 0.1).
    vnc = _mitochondria("vnc", "m_vnc_9nm", 300, scale=1.4, small=1.2)
    return (
        *nuclei.values(),
        *plain,
        *(run for pair in zip(epfl, vnc, strict=True) for run in pair),
        *wide,
        _adapted(epfl[1], "vnc", 400, images=None),
        _adapted(epfl[3], "vnc", 401, images=None),
        _adapted(epfl[4], "vnc", 402, images=3),
        _adapted(vnc[1], "epfl", 403, images=None),
        _adapted(vnc[3], "epfl", 404, images=None),
        _adapted(vnc[4], "epfl", 405, images=3),
        _adapted(nuclei["fibro256"], "clump256", 406, images=3),
        _adapted(nuclei["large360"], "mixed256", 407, images=3),
        _adapted(nuclei["u2os-sharp"], "blurry", 408, images=3),
        _adapted(nuclei["rpe1"], "u2os", 409, images=3),
        _adapted(nuclei["blurry"], "highmag", 410, images=None),
        _adapted(nuclei["mixed256"], "rpe1", 411, images=None),
        *_stained(),
    )


def _quick() -> tuple[Run, ...]:
    """Return short runs of small networks; the nuclei are those of the package's demonstration."""
    mitochondria = tuple(
        _scratch(f"{source}-{word}", pack, seed, SMALL, augmentation=augmentation, steps=400)
        for word, augmentation, seed in (
            ("full", FULL, 500),
            ("plain", PLAIN, 502),
            ("intensity", INTENSITY, 504),
        )
        for source, pack in MITOCHONDRIA.items()
    )
    return (*mitochondria, *_shipped())


FULL_RUNS, QUICK_RUNS = _full(), _quick()


def banks(runs: tuple[Run, ...]) -> dict[str, tuple[str, ...]]:
    """Return the models of each bank.

    That of ``modalities`` holds one model of each nuclei pack, in whatever way it was acquired.
    """
    made: dict[str, tuple[str, ...]] = {}
    stained = tuple(run.name for run in runs if run.recipe.pack in STAINED.values())
    if stained:
        made["modalities"] = (*(run.name for run in runs if run.shipped), *stained)
    for task, prefix in (("nuclei", "n_"), ("mitochondria", "m_")):
        its = [
            run for run in runs if run.recipe.pack.startswith(prefix) and run.name not in stained
        ]
        if its:
            made[task] = tuple(run.name for run in its if not run.zoo_only)
            zoo = tuple(name for run in its for name in run.models)
            if zoo != made[task]:
                made[f"{task}-zoo"] = zoo
    return made
