from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cte_dask.inference.preprocess import Statistics, preprocess
from cte_dask.models.preprocessing import Step, required_percentiles
from cte_dask.models.spec import ModelSpec

Real = NDArray[np.float64]


@dataclass(frozen=True)
class Of:
    """Statistics of a whole array, as the target's are."""

    values: NDArray[np.generic]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values, dtype=np.float64))

    @property
    def std(self) -> float:
        return float(np.std(self.values, dtype=np.float64))

    def percentile(self, q: float) -> float:
        return float(np.percentile(self.values, q))


def step(name: str, scope: str = "volume", **kwargs: object) -> Step:
    return Step.model_validate({"name": name, "kwargs": kwargs, "scope": scope})


def prepared(
    x: NDArray[Any], steps: Sequence[Step], statistics: Statistics | None
) -> NDArray[np.float32]:
    """One channel."""
    (channel,) = preprocess([x], steps, None if statistics is None else [statistics])
    return channel


def spelled_out(x: Real, steps: list[Step]) -> Real:
    """BioImage.IO's formulas one after another in float64, on a volume that is its own tile."""
    for s in steps:
        k = s.kwargs
        match s.name:
            case "scale_range":
                low, high = np.percentile(x, [k["min_percentile"], k["max_percentile"]])
                x = (x - low) / (high - low + k["eps"])
            case "zero_mean_unit_variance":
                x = (x - x.mean()) / (x.std() + k["eps"])
            case "fixed_zero_mean_unit_variance":
                x = (x - k["mean"]) / k["std"]
            case "scale_linear":
                x = x * k["gain"] + k["offset"]
            case "clip":
                x = np.clip(x, k["min"], k["max"])
    return x


GAINS = st.floats(0.1, 10) | st.floats(-10, -0.1)
SCOPES = st.sampled_from(["volume", "tile"])
PERCENTILES = st.tuples(st.integers(0, 40), st.integers(60, 100))
STEPS = st.one_of(
    st.builds(
        lambda p, s: step("scale_range", s, min_percentile=p[0], max_percentile=p[1]),
        PERCENTILES,
        SCOPES,
    ),
    st.builds(lambda s: step("zero_mean_unit_variance", s), SCOPES),
    st.builds(
        lambda m, s: step("fixed_zero_mean_unit_variance", mean=m, std=s),
        st.floats(-10, 10),
        st.floats(0.5, 10),
    ),
    st.builds(lambda g, o: step("scale_linear", gain=g, offset=o), GAINS, st.floats(-10, 10)),
    st.builds(lambda a, b: step("clip", min=a, max=a + b), st.floats(-2, 1), st.floats(0.5, 9)),
)
# 101 values: whole percentiles are values of the array, which clipping and scaling commute with.
ARRAYS = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(0, 256, 101).astype(np.uint8)
)


def chain_is_known(steps: list[Step]) -> bool:
    try:
        ModelSpec(name="m", format="torchscript", source="s", preprocessing=tuple(steps))
    except ValueError:
        return False
    return True


@given(x=ARRAYS, steps=st.lists(STEPS, max_size=4))
def test_fused_steps_equal_the_formulas_one_after_another(
    x: NDArray[np.uint8], steps: list[Step]
) -> None:
    assume(chain_is_known(steps))
    partial = [spelled_out(x.astype(np.float64), steps[:i]) for i in range(len(steps) + 1)]
    # A flat intermediate is divided by its own rounding error.
    assume(all(np.subtract(*np.percentile(p, [60, 40])) > 1e-3 for p in partial))
    got = prepared(x, steps, Of(x))
    assert got.dtype == np.float32
    scale = max(1.0, max(float(np.abs(p).max()) for p in partial[1:]) if steps else 1.0)
    gain = max(1.0, *(float(np.ptp(partial[-1]) / np.ptp(p)) for p in partial))
    np.testing.assert_allclose(got, partial[-1], rtol=1e-5, atol=1e-6 * scale * gain)


def test_each_step_is_its_formula() -> None:
    x = np.arange(101, dtype=np.uint16).reshape(1, 101) * 10
    cases: list[tuple[Step, Real]] = [
        (step("scale_range", min_percentile=10, max_percentile=90), (x - 100.0) / 800.0),
        (step("zero_mean_unit_variance"), (x - 500.0) / x.std()),
        (step("fixed_zero_mean_unit_variance", mean=100, std=50), (x - 100.0) / 50),
        (step("scale_linear", gain=0.5, offset=-3), x * 0.5 - 3),
        (step("clip", min=100, max=200), np.clip(x * 1.0, 100, 200)),
        (step("clip", min=100), np.maximum(x * 1.0, 100)),
        (step("ensure_dtype", dtype="float32"), x * 1.0),
        (step("ensure_dtype", dtype="uint8"), np.minimum(x * 1.0, 255)),
    ]
    for one, expected in cases:
        np.testing.assert_allclose(prepared(x, [one], Of(x)), expected, rtol=1e-5, atol=1e-5)


def test_scope_decides_whose_statistics_count() -> None:
    volume = np.arange(101.0)
    tile = volume[:11]
    by_volume = prepared(tile, [step("scale_range")], Of(volume))
    by_tile = prepared(tile, [step("scale_range", "tile")], None)
    np.testing.assert_allclose(by_volume, tile / 100, rtol=1e-6)
    np.testing.assert_allclose(by_tile, tile / 10, rtol=1e-6)


def test_the_volumes_statistics_pass_through_the_steps_before() -> None:
    volume = np.arange(101.0)
    steps = [step("scale_linear", gain=-2, offset=7), step("zero_mean_unit_variance")]
    np.testing.assert_allclose(
        prepared(volume[:5], steps, Of(volume)),
        (volume.mean() - volume[:5]) / volume.std(),
        rtol=1e-5,
    )
    mirrored = [steps[0], step("scale_range", min_percentile=10, max_percentile=100)]
    np.testing.assert_allclose(
        prepared(volume, mirrored, Of(volume)), (90 - volume) / 90, rtol=1e-5, atol=1e-6
    )
    clipped = [step("clip", max=50), step("scale_range")]
    np.testing.assert_allclose(
        prepared(volume, clipped, Of(volume)), np.minimum(volume, 50) / 50, rtol=1e-5
    )


def test_an_integer_that_became_almost_one_stays_it() -> None:
    x = np.array([4.9999996, 5.0000004, -3.0, 300.0])
    got = prepared(x, [step("ensure_dtype", dtype="uint8")], None)
    np.testing.assert_array_equal(got, [5, 5, 0, 255])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64", "bool"])
def test_every_raw_type_becomes_a_new_float32_array(dtype: str) -> None:
    x = np.array([0, 1, 1], dtype=dtype)
    got = prepared(x, [], None)
    assert got.dtype == np.float32
    got += 1
    np.testing.assert_array_equal(x.astype(int), [0, 1, 1])


def test_the_input_is_never_changed() -> None:
    x = np.linspace(0, 9, 7, dtype=np.float32)
    before = x.copy()
    steps = [step("clip", min=1), step("scale_range", "tile"), step("scale_linear", gain=3)]
    prepared(x, steps, None)
    np.testing.assert_array_equal(x, before)


def test_a_flat_tile_stays_finite() -> None:
    flat = np.full((4, 4), 7, np.uint16)
    for name in ("scale_range", "zero_mean_unit_variance"):
        assert np.isfinite(prepared(flat, [step(name, "tile")], None)).all()


CHANNELS = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).gamma(2, 30, (3, 101)) * [[1], [4], [0.2]]
)


def of_each(channels: Sequence[Real]) -> list[Of]:
    return [Of(c) for c in channels]


@given(x=ARRAYS, steps=st.lists(STEPS, max_size=3), scope=SCOPES)
def test_statistics_of_equal_channels_together_are_those_of_each(
    x: NDArray[np.uint8], steps: list[Step], scope: str
) -> None:
    assume(chain_is_known([*steps, step("zero_mean_unit_variance", scope)]))
    assume(np.ptp(prepared(x, steps, Of(x))) > 0.1)  # else divided by its own rounding error
    for name in ("zero_mean_unit_variance", "scale_range"):
        each, together = step(name, scope), step(name, scope, channel_wise=False)
        alone = prepared(x, [*steps, each], Of(x))
        for channel in preprocess([x, x], [*steps, together], of_each([x, x])):
            np.testing.assert_allclose(channel, alone, rtol=1e-3, atol=1e-3)


@given(channels=CHANNELS, scope=SCOPES, order=st.permutations(range(3)), invert=st.booleans())
def test_channels_permuted_with_their_numbers_permute_the_input_and_change_nothing_else(
    channels: Real, scope: str, order: list[int], invert: bool
) -> None:
    mean, std, gain = [3.0, 20.0, 90.0], [1.0, 2.0, 3.0], [-1.0 if invert else 1.0, 0.5, 2.0]

    def steps(order: Sequence[int]) -> list[Step]:
        of = {old: new for new, old in enumerate(order)}
        return [
            step("fixed_zero_mean_unit_variance", mean=[mean[i] for i in order],
                 std=[std[i] for i in order]),
            step("scale_linear", gain=[gain[i] for i in order]),
            step("zero_mean_unit_variance", scope, channel_wise=False),
            Step(name="clip", kwargs={"max": 1}, channel=of[2]),
            step("scale_range", scope, channel_wise=False),
            Step(name="scale_linear", kwargs={"gain": 3}, channel=of[0]),
        ]  # fmt: skip

    plain = preprocess(channels, steps(range(3)), of_each(channels))
    turned = preprocess(channels[order], steps(order), of_each(channels[order]))
    for place, number in enumerate(order):
        np.testing.assert_allclose(turned[place], plain[number], rtol=1e-4, atol=1e-4)
    assert np.abs(plain[0] - plain[1]).max() > 1e-3


@given(channels=CHANNELS)
def test_a_number_for_each_channel_is_that_of_the_channel_alone(channels: Real) -> None:
    numbers = {"mean": [3.0, 20.0, 90.0], "std": [1.0, 2.0, 3.0]}
    together = preprocess(channels, [step("fixed_zero_mean_unit_variance", **numbers)], None)
    for number, channel in enumerate(channels):
        alone = {key: values[number] for key, values in numbers.items()}
        expected = prepared(channel, [step("fixed_zero_mean_unit_variance", **alone)], None)
        np.testing.assert_array_equal(together[number], expected)


@given(channels=CHANNELS, scope=SCOPES)
def test_statistics_together_are_those_of_all_voxels(channels: Real, scope: str) -> None:
    known = of_each(channels) if scope == "volume" else None
    before = step("scale_linear", gain=[2, -1, 1], offset=[0, 5, 0])
    x = channels * [[2], [-1], [1]] + [[0], [5], [0]]
    cases = [
        (step("zero_mean_unit_variance", scope, channel_wise=False), (x - x.mean()) / x.std()),
        (step("scale_range", scope, channel_wise=False), (x - x.min()) / np.ptp(x)),
    ]
    if scope == "tile":
        low, high = np.percentile(x, [2, 70])
        ends = {"min_percentile": 2, "max_percentile": 70}
        cases += [
            (step("scale_range", scope, channel_wise=False, **ends), (x - low) / (high - low))
        ]
    for one, expected in cases:
        got = preprocess(channels, [before, one], known)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_step_of_one_channel_leaves_the_others() -> None:
    x = np.arange(101.0)
    steps = (
        Step(name="clip", kwargs={"max": 50}, channel=0),
        Step(name="zero_mean_unit_variance", channel=1),
    )
    first, second = preprocess([x, 2 * x], steps, of_each([x, 2 * x]))
    np.testing.assert_array_equal(first, np.minimum(x, 50))
    np.testing.assert_allclose(second, (x - x.mean()) / x.std(), rtol=1e-5)
    assert required_percentiles([
        Step(name="scale_linear", kwargs={"gain": -1}, channel=0), step("scale_range",
        min_percentile=1),
    ]) == {0, 1, 99, 100}  # fmt: skip


def test_missing_or_bad_statistics_and_empty_arrays_are_refused() -> None:
    x = np.arange(4.0)
    with pytest.raises(ValueError, match="needs the target's statistics"):
        prepared(x, [step("scale_range")], None)
    with pytest.raises(ValueError, match="finite statistics, got nan"):
        prepared(x, [step("zero_mean_unit_variance")], Of(np.array([np.nan])))
    with pytest.raises(ValueError, match=r"shape \(0, 3\)"):
        prepared(np.zeros((0, 3)), [], None)


def test_the_percentiles_asked_for_are_the_percentiles_read() -> None:
    class Recorder(Of):
        def percentile(self, q: float) -> float:
            read.add(q)
            return super().percentile(q)

    steps = (
        step("scale_range", min_percentile=1, max_percentile=99.8),
        step("scale_linear", gain=-1),
        step("scale_range", min_percentile=5, max_percentile=90),
        step("clip", min=-1, max=1),
        step("scale_range", min_percentile=0, max_percentile=100),
        step("scale_range", "tile", min_percentile=3, max_percentile=70),
    )
    read: set[float] = set()
    prepared(np.arange(50.0), steps, Recorder(np.arange(200.0)))
    spec = ModelSpec(name="m", format="torchscript", source="s", preprocessing=steps)
    assert required_percentiles(spec.preprocessing) == read == {1, 99.8, 95, 10, 0, 100}
