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

from cte_dask.perturb import GEOMETRIC, PERTURBATIONS, Perturbation
from cte_dask.perturb.input import apply

STRENGTHS = {
    "dropout": st.floats(0, 1, exclude_max=True),
    "gaussian": st.floats(0, 1e6),
    "brightness": st.floats(-1e6, 1e6),
    "contrast": st.floats(0, 1e6),
    "gamma": st.floats(0, 1e6, exclude_min=True),
    "rotate": st.just(0.0),
    "mirror": st.just(0.0),
    "zoom": st.floats(0.5, 2),
}


@st.composite
def perturbations(draw: Callable) -> Perturbation:
    kind = draw(st.sampled_from(sorted({*PERTURBATIONS, *GEOMETRIC})))
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
    image = np.array([[[0.0, 0.25]]])
    found = apply(perturbation, image, key=(0, 0), start=(0, 0, 0), core=(slice(None),) * 3)
    np.testing.assert_array_equal(found, 1 - image)
    with pytest.raises(ValueError, match="above 1"):
        Perturbation.parse("their.package:invert:2")
    module.invert = lambda image, strength, **_: image[:, :1, :1]
    module.invert.space = "input"
    with pytest.raises(ValueError, match="increment of shape"):
        apply(perturbation, image, key=(0, 0), start=(0, 0, 0), core=(slice(None),) * 3)


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
