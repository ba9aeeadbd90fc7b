from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cte_dask.perturb import PERTURBATIONS, Perturbation, perturbation_kind, usual_strengths
from cte_dask.perturb.kinds import DrawnTiles
from cte_dask.perturb.views import TileContext, plain_view
from cte_dask.tiles import Tile

STRENGTHS = {
    "dropout": st.floats(0, 1, exclude_max=True),
    "gaussian": st.floats(0, 1e6),
    "brightness": st.floats(-1e6, 1e6),
    "contrast": st.floats(0, 1e6),
    "gamma": st.floats(0, 1e6, exclude_min=True),
    "none": st.just(0.0),
    "rotate": st.just(0.0),
    "mirror": st.just(0.0),
    "zoom": st.floats(0.5, 2),
}


@st.composite
def perturbations(draw: Callable) -> Perturbation:
    kind = draw(st.sampled_from(sorted(PERTURBATIONS)))
    mode = draw(st.sampled_from(["bernoulli", "fixed"])) if kind == "dropout" else None
    return Perturbation(kind, draw(STRENGTHS[kind]), mode)


@given(perturbations())
def test_a_name_reads_back_as_its_perturbation(perturbation: Perturbation) -> None:
    assert Perturbation.parse(perturbation.name) == perturbation
    assert pickle.loads(pickle.dumps(perturbation)) == perturbation


@pytest.mark.parametrize(
    ("text", "name", "space"),
    [
        ("dropout:0.20", "dropout:0.2", "feature"),
        ("dropout:0.2:bernoulli", "dropout:0.2", "feature"),
        ("dropout:.2:fixed", "dropout:0.2:fixed", "feature"),
        (" gaussian:1e-1 ", "gaussian:0.1", "input"),
        ("brightness:-0", "brightness:0", "input"),
        ("contrast:2.0", "contrast:2", "input"),
        ("gamma:0.123456789", "gamma:0.123456789", "input"),
        (" rotate", "rotate", "input"),
        ("mirror", "mirror", "input"),
        ("zoom:1.1250", "zoom:1.125", "input"),
    ],
)
def test_one_perturbation_has_one_name(text: str, name: str, space: str) -> None:
    perturbation = Perturbation.parse(text)
    assert perturbation.name == name
    assert perturbation.space == space


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dropuot:0.2", "did you mean 'dropout'"),
        ("noise:0.2", "accepted: brightness, contrast, dropout"),
        ("dropout", "kind:strength"),
        ("dropout:0.2:fixed:more", "kind:strength"),
        ("dropout:1", "0 <= p < 1"),
        ("dropout:-0.1", "0 <= p < 1"),
        ("dropout:0.2:gaussian", "accepted are bernoulli, fixed"),
        ("gaussian:-1", "standard deviation >= 0"),
        ("gaussian:nan", "standard deviation >= 0"),
        ("gaussian:much", "'much' .* is not a number"),
        ("gaussian:0.1:fixed", "it has none"),
        ("brightness:inf", "finite offset"),
        ("contrast:-1", "factor >= 0"),
        ("gamma:0", "exponent > 0"),
        ("rotate:90", "no strength"),
        ("mirror:y", "no strength"),
        ("zoom", "kind:strength"),
        ("zoom:3", "factor from 0.5 to 2"),
        ("miror", "did you mean 'mirror'"),
        ("no_such_package.module:thing:1", "cannot be imported"),
        ("os.path:join:1", "attribute space"),
        ("mirror:1", "no strength"),
    ],
)
def test_an_unfit_perturbation_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Perturbation.parse(text)


def test_a_perturbation_from_outside_is_taken_by_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def invert(image: np.ndarray, strength: float, **_: object) -> np.ndarray:
        return strength * (1 - 2 * image)

    def at_most_one(strength: float) -> None:
        if strength > 1:
            raise ValueError(f"strength {strength} is above 1")

    invert.space, invert.check = "input", at_most_one
    module = ModuleType("their_package")
    module.invert = invert
    package = ModuleType("their")
    monkeypatch.setitem(sys.modules, "their", package)
    monkeypatch.setitem(sys.modules, "their.package", module)
    perturbation = Perturbation.parse("their.package:invert:1")
    assert perturbation.name == "their.package:invert:1"
    image = np.array([[[[0.0, 0.25]]]], np.float32)
    view = plain_view(TileContext((1, 1, 2), 2, (0, 0, 0), (1, 1, 1)))
    drawn = DrawnTiles(view, [Tile(0, (0, 0, 0), (1, 1, 2))], [(0, 0)], low=0.0, high=1.0)
    found, warp = perturbation.images(image, drawn)
    np.testing.assert_array_equal(found, 1 - image)
    assert warp is None
    with pytest.raises(ValueError, match="above 1"):
        Perturbation.parse("their.package:invert:2")
    module.invert = lambda image, strength, **_: image[:, :1, :1]
    module.invert.space = "input"
    with pytest.raises(ValueError, match="increment of shape"):
        perturbation.images(image, drawn)


LISTED = pytest.mark.parametrize("name", PERTURBATIONS)


@LISTED
def test_every_kind_says_what_it_accepts_and_how_strong_it_usually_is(name: str) -> None:
    kind = perturbation_kind(name)
    assert kind.__doc__
    assert kind.space in {"input", "feature", "none"}
    assert kind.has_strength == bool(kind.strengths or kind.typical)
    for strength in (*kind.strengths, *(kind.typical or ())):
        assert Perturbation(name, strength).strength == strength
    if kind.has_strength:
        assert kind.meaning
        assert not all(kind.accepts(s) for s in (-1.0, 1e9)) or name == "brightness"


@LISTED
def test_usual_strengths_go_from_weak_to_strong(name: str) -> None:
    neutral = {"contrast": 1.0, "gamma": 1.0}.get(name, 0.0)
    distances = [abs(s - neutral) for s in perturbation_kind(name).strengths]
    assert distances == sorted(set(distances))
    assert 0 not in distances


@LISTED
def test_what_is_not_random_does_not_ask_for_a_draw(name: str) -> None:
    kind, context = perturbation_kind(name), TileContext((1, 8, 8), 2, (0, 2, 2), (1, 1, 1))
    if kind.space != "input":
        assert kind.random == (name != "none")
        return
    perturbation = Perturbation(name, (*kind.strengths, *(kind.typical or (0.0,)))[0])
    view = perturbation.view(context)
    frames = np.random.default_rng(0).random((1, *view.shape), np.float32)
    seen = set()
    for number in range(8):
        drawn = DrawnTiles(view, [Tile(0, (0, 0, 0), (1, 8, 8))], [(number, 1)], low=0.0, high=1.0)
        image, _ = perturbation.images(frames, drawn)
        assert image.shape[1:] == view.frame.shape
        seen.add(image.tobytes())
    assert (len(seen) > 1) == kind.random


def test_help_texts_tell_every_kind_with_its_usual_strengths() -> None:
    text, calibrated = usual_strengths(), usual_strengths(calibrated=True)
    assert "dropout (rate of feature maps dropped at the bottleneck, 0.05-0.5; grey" in text
    assert "contrast (factor, 0.4-0.9)" in calibrated
    assert "zoom (factor, 0.8-1.25)" in text
    assert text.endswith("rotate and mirror (no strength)")
    for name in set(PERTURBATIONS) - {"none"}:
        assert name in text
        assert (f"{name} (" in calibrated) == bool(perturbation_kind(name).strengths)


def test_a_perturbation_of_one_space_refuses_what_belongs_to_the_other() -> None:
    with pytest.raises(TypeError, match=r"'gaussian:0\.1' perturbs no feature maps"):
        Perturbation("gaussian", 0.1).multipliers(8, (0, 0))
    drawn = DrawnTiles(None, [], [], low=0.0, high=1.0)
    with pytest.raises(TypeError, match=r"'dropout:0\.2' perturbs no image"):
        Perturbation("dropout", 0.2).images(np.zeros((0, 1, 2, 3)), drawn)


def test_perturbations_are_listed_without_the_heavy_libraries() -> None:
    code = """
import sys
for name in ("torch", "numba", "dask", "cupy", "scipy"):
    sys.modules[name] = None
from cte_dask.perturb import Perturbation
from cte_dask.perturb.philox import key, normal_field
print(Perturbation.parse("dropout:0.2").name, normal_field(key(0), (0, 0, 0), (1, 1, 2)).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "dropout:0.2 (1, 1, 2)", done.stderr
