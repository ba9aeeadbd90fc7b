from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from cte_dask.perturb import PERTURBATIONS, Perturbation, perturbation_kind
from cte_dask.perturb import values as module
from cte_dask.perturb.canonical import add_increment, canonical
from cte_dask.perturb.kinds import ValuePerturbation
from cte_dask.perturb.philox import key
from tests.golden import array, cases, number

KINDS = [k for k in PERTURBATIONS if isinstance(perturbation_kind(k), ValuePerturbation)]
NEUTRAL = ["gaussian:0", "brightness:0", "contrast:1", "gamma:1"]
STRONG = ["gaussian:0.2", "brightness:-0.3", "contrast:1.7", "gamma:0.6"]
WHOLE = (slice(None),) * 3
CLASSES = {
    "RandomBrightness": "brightness",
    "RandomContrast": "contrast",
    "RandomGamma": "gamma",
    "AdditiveGaussianNoise": "gaussian",
}


def increment(perturbation: Perturbation, image: np.ndarray, **where: Any) -> np.ndarray:
    return perturbation.load().increment(image, perturbation.strength, **where)


def apply(perturbation: Perturbation, image: np.ndarray, **where: Any) -> np.ndarray:
    """Perturb a canonical image."""
    return image + increment(perturbation, image, **where)


def perturb_raw(
    perturbation: Perturbation, raw: np.ndarray, *, low: float, high: float, **where: Any
) -> np.ndarray:
    """Perturb a raw image as its canonical form is."""
    return add_increment(raw, lambda x: increment(perturbation, x, **where), low=low, high=high)


def perturbed_tile(perturbation: Perturbation, image: np.ndarray) -> np.ndarray:
    """Perturb an image that is a tile without a halo."""
    return apply(perturbation, image, key=(1, 2), start=(0, 0, 0), core=WHOLE)


def framed(image: np.ndarray, halo: int, shape: tuple[int, ...]) -> tuple[np.ndarray, dict]:
    """Cut a frame with a halo around a tile of some shape in the image's middle."""
    low = [(n - s) // 2 for n, s in zip(image.shape, shape, strict=True)]
    cut = tuple(slice(a - halo, a + s + halo) for a, s in zip(low, shape, strict=True))
    core = tuple(slice(halo, halo + s) for s in shape)
    return image[cut], {"key": (5, 6), "start": (-halo,) * 3, "core": core}


# --- golden cases


@pytest.mark.parametrize("case", [c for c in cases("PERTURB") if "norm" not in c.id])
def test_perturbations_are_those_of_the_paper(case: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    image, params = array(case["inputs"]["x"]), case["params"]
    kind = CLASSES[params["class"]]
    low, high = params["scale"] if kind == "gaussian" else params["alpha"]
    if kind == "gaussian":
        # The case pins what is done with a draw, not the generator: its stream (one uniform for the
        # execution, one for the strength, then normals) stands in for ours.
        stream = np.random.RandomState(params["random_state_seed"])
        stream.uniform()
        low = stream.uniform(low, high)
        draw = stream.normal(size=image.shape)
        monkeypatch.setattr(module, "normal_field", lambda *_, **__: draw)
    found = perturbed_tile(Perturbation(kind, low), image)
    if kind != "gaussian" and "clip_kwargs" not in params:
        found = np.clip(found, -1, 1)  # the authors' default; we never clip
    expected = number(case["independent"]["value"])
    assert_allclose(found, expected, atol=case["tolerance"], rtol=0)


@pytest.mark.parametrize("case", [c for c in cases("PERTURB") if "norm" in c.id])
def test_normalisations_are_linear_in_the_canonical_image(case: dict) -> None:
    raw, params = array(case["inputs"]["x"]), case["params"]
    if params["class"] == "Normalize":
        found = 2 * canonical(raw, low=raw.min(), high=raw.max()) - 1
    else:
        found = canonical(raw, low=params["pmin"], high=params["pmax"])
    expected = number(case["independent"]["value"])
    assert_allclose(found, expected, atol=case["tolerance"], rtol=0)


# --- every input perturbation


@pytest.mark.parametrize("kind", KINDS)
def test_every_listed_input_perturbation_keeps_the_protocol(kind: str) -> None:
    perturbation = Perturbation(kind, 0.5)
    assert perturbation.space == "input"
    for dtype in ("float32", "float64"):
        image = np.linspace(-0.2, 1.3, 60).reshape(3, 4, 5).astype(dtype)
        before = image.copy()
        found = perturbed_tile(perturbation, image)
        assert found.shape == image.shape
        assert found.dtype == image.dtype
        assert_array_equal(image, before)
        assert not np.array_equal(found, image)


@pytest.mark.parametrize("name", NEUTRAL)
def test_the_neutral_strength_is_the_identity_to_the_bit(name: str) -> None:
    rng = np.random.default_rng(0)
    where: Any = {"key": (1, 2), "start": (0, -3, -4), "core": (slice(0, 1), slice(3, 9), WHOLE[0])}
    image = rng.normal(size=(2, 12, 13)).astype("float32")
    assert_array_equal(apply(Perturbation.parse(name), image, **where), image)
    for dtype in ("uint8", "uint16", "float32"):
        raw = rng.integers(0, 255, image.shape).astype(dtype)
        found = perturb_raw(Perturbation.parse(name), raw, low=3.1, high=170.7, **where)
        assert found.dtype == np.float32
        assert_array_equal(found, raw.astype("float32"))


@pytest.mark.parametrize("name", STRONG)
def test_raw_and_canonical_images_are_perturbed_alike(name: str) -> None:
    raw = np.random.default_rng(1).integers(0, 4096, (3, 10, 12)).astype("uint16")
    where: Any = {"key": (1, 2), "start": (0, 0, 0), "core": WHOLE}
    perturbation = Perturbation.parse(name)
    low, high = 100.0, 3000.0
    found = perturb_raw(perturbation, raw, low=low, high=high, **where)
    wanted = apply(perturbation, canonical(raw, low=low, high=high), **where)
    assert_allclose(canonical(found, low=low, high=high), wanted, atol=1e-6)


@pytest.mark.parametrize("name", STRONG)
@examples(20)
@given(st.integers(0, 4), st.integers(0, 4), st.tuples(*[st.integers(1, 9)] * 3))
def test_models_with_different_halos_see_the_same_tile(
    name: str, one: int, other: int, shape: tuple
) -> None:
    image = np.random.default_rng(2).random((20, 20, 20)).astype("float32")
    seen = []
    for halo in (one, other):
        frame, where = framed(image, halo, shape)
        seen.append(apply(Perturbation.parse(name), frame, **where)[where["core"]])
    assert_array_equal(seen[0], seen[1])


# --- what each one does


def test_gaussian_noise_has_the_strength_as_its_standard_deviation() -> None:
    zero = np.zeros((4, 100, 100), dtype="float32")
    noise = perturbed_tile(Perturbation("gaussian", 0.1), zero)
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert abs(noise.mean()) < 0.002


def test_contrast_turns_about_the_mean_of_the_core_alone() -> None:
    image = np.zeros((1, 6, 6), dtype="float32")
    image[:, 2:4, 2:4] = 1
    where: Any = {"key": (1, 2), "start": (0, -2, -2), "core": (slice(0, 1), *[slice(2, 4)] * 2)}
    found = apply(Perturbation("contrast", 0.0), image, **where)
    assert_array_equal(found, np.ones_like(image))


def test_gamma_keeps_the_sign_and_stays_finite() -> None:
    image = np.array([[[-2.0, -0.25, -0.0, 0.0, 0.25, 2.0]]], dtype="float32")
    found = perturbed_tile(Perturbation("gamma", 0.5), image)
    root = math.sqrt(2)
    assert_allclose(found, [[[-root, -0.5, 0, 0, 0.5, root]]], rtol=1e-6)


def test_nothing_is_clipped() -> None:
    image = np.array([[[-1.0, 2.0]]], dtype="float32")
    assert_array_equal(perturbed_tile(Perturbation("brightness", 5.0), image), image + 5)
    raw = np.array([[[0, 255]]], dtype="uint8")
    assert canonical(raw, low=100, high=200).tolist() == [[[-1.0, pytest.approx(1.55)]]]


def test_other_tiles_and_repeats_get_other_noise() -> None:
    zero = np.zeros((1, 8, 8), dtype="float32")
    gaussian = Perturbation("gaussian", 0.1)
    fields = {
        apply(
            gaussian, zero, key=key(0, gaussian.name, r, t), start=(0, 0, 0), core=WHOLE
        ).tobytes()
        for r in range(3)
        for t in range(3)
    }
    assert len(fields) == 9


# --- what is refused


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1)])
def test_a_constant_target_is_refused_with_the_reason(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="looks constant"):
        canonical(np.zeros((1, 2, 3)), low=low, high=high)
