"""Ways to use a model: their names, what a bank may say of them, and what it may not."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from cte_dask.models import load_bank
from cte_dask.models.bank import BankError
from cte_dask.models.spec import ModelSpec, Variant
from cte_dask.models.variants import AS_IT_IS, check_scales, members_of

BASE = {
    "name": "nuclei",
    "format": "state_dict",
    "source": "/weights.safetensors",
    "architecture": "cte_dask.models.unet:UNet",
}
STANDARD = [{"name": "zero_mean_unit_variance"}]


def spec(*variants: dict[str, object], **keys: object) -> ModelSpec:
    return ModelSpec.model_validate({**BASE, "variants": variants, **keys})


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({}, "nuclei"),
        ({"scale": 0.25}, "nuclei ×0.25"),
        ({"scale": 1 / 3}, "nuclei ×0.333333"),
        ({"invert": True}, "nuclei inverted"),
        ({"scale": 2, "invert": True}, "nuclei ×2 inverted"),
        ({"preprocessing": STANDARD}, "nuclei zero_mean_unit_variance"),
        ({"preprocessing": []}, "nuclei raw"),
        ({"scale": 2, "name": "from the other microscope"}, "nuclei from the other microscope"),
    ],
)
def test_a_candidate_is_named_after_what_it_changes(keys, name):
    variant = Variant.model_validate(keys)
    assert variant.candidate_name("nuclei") == name
    assert variant.plain == (name == "nuclei")


@pytest.mark.parametrize(
    "variant",
    [
        AS_IT_IS,
        Variant(scale=0.5, invert=True),
        Variant.model_validate({"name": "other", "preprocessing": STANDARD}),
        Variant(preprocessing=()),
    ],
)
def test_a_variant_is_a_value_that_can_be_written_down(variant):
    data = variant.to_dict("nuclei")
    assert data["model"] == "nuclei"
    assert data["scale"] == variant.scale
    assert Variant.from_dict(data) == variant
    copy = pickle.loads(pickle.dumps(variant))
    assert (copy, hash(copy)) == (variant, hash(variant))


def test_each_model_comes_at_each_scale_then_in_its_variants():
    models = [spec(name="a"), spec({"invert": True}, {"scale": 2}, name="b")]
    assert list(members_of(models)) == ["a", "b", "b inverted", "b ×2"]
    members = members_of(models, [0.5, 2])
    assert list(members) == ["a ×0.5", "a ×2", "b ×0.5", "b ×2", "b inverted"], "×2 comes once"
    assert members["b inverted"] == (models[1], Variant(invert=True))


def test_two_candidates_never_have_one_name():
    with pytest.raises(ValueError, match="two candidates have the name 'a ×2'"):
        members_of([spec(name="a"), spec(name="a ×2")], [1, 2])


def test_numbers_of_every_kind_are_scales():
    assert check_scales(None) == (1.0,)
    assert check_scales((np.float32(0.5), np.int64(2), 1)) == (0.5, 2.0, 1.0)
    assert check_scales(np.array([0.25, 1]).tolist()) == (0.25, 1.0)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ([0], r"scale 0 must be a number from 0\.0625 to 16"),
        ([1, -0.5], r"scale -0\.5 must be a number"),
        ([float("nan")], "scale nan must be a number"),
        ([float("inf")], "scale inf must be a number"),
        ([True], "scale True must be a number"),
        (["2"], "scale '2' must be a number"),
        ([0.5, 1, 0.5], r"scale 0\.5 is given twice, of 0\.5, 1\.0, 0\.5"),
        ([1 / 3, 0.33333333], r"scale 0\.333333 is given twice"),
        ([], r"one or more numbers such as 0\.5, 1, not \[\]"),
        ("0.5,1", "one or more numbers such as 0.5, 1, not '0.5,1'"),
    ],
)
def test_a_scale_that_makes_no_sense_is_refused_by_its_value(scales, message):
    with pytest.raises(ValueError, match=message):
        check_scales(scales)


BENT = "[{name: clip, kwargs: {min: 0}}, {name: zero_mean_unit_variance}]"


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("[{scal: 2}]", "variants.0: unknown key 'scal', did you mean 'scale'?"),
        ("[{scale: -1}]", "variants.0.scale: scale -1.0 must be a number from 0.0625 to 16"),
        ("[{scale: .nan}]", "variants.0.scale: Input should be a finite number, not nan"),
        ("[{scale: two}]", "variants.0.scale: Input should be a valid number"),
        ("[{invert: 1}]", "variants.0.invert: Input should be a valid boolean, not 1"),
        ("[{preprocessing: [{name: scale}]}]", "unknown preprocessing step 'scale'"),
        (f"[{{preprocessing: {BENT}}}]", "variants.0.preprocessing: zero_mean_unit_variance of"),
        ("[{name: ' x', scale: 2}]", "variants.0.name: ' x' must be printable"),
        ("[{scale: 2}, {}]", "variants.1 changes nothing: give scale, invert or preprocessing"),
        ("[{scale: 2}, {scale: 2.0}]", "variants.1: '×2' appears twice: give it a name"),
        ("{scale: 2}", "variants: Input should be a valid tuple"),
    ],
)
def test_a_bank_with_a_bad_variant_is_refused_in_one_line(tmp_path: Path, variants, message):
    path = tmp_path / "bank.yaml"
    keys = "\n".join(f"    {k}: {v}" for k, v in BASE.items() if k != "name")
    path.write_text(f"schema: cte-bank/1\nmodels:\n  m:\n{keys}\n    variants: {variants}\n")
    with pytest.raises(BankError) as error:
        load_bank(path)
    assert message in str(error.value)
    assert "model 'm'" in str(error.value)
    assert "\n" not in str(error.value)


def test_models_without_variants_are_what_they_were():
    plain = ModelSpec.model_validate(BASE)
    assert "variants" not in plain.model_dump(mode="json", exclude_unset=True)
    changed = spec({"scale": 2})
    assert changed.digest() != plain.digest()
    assert Variant(scale=2).applied(changed).digest() == plain.digest()


def test_a_variants_preprocessing_replaces_the_models():
    way = Variant.model_validate({"preprocessing": STANDARD})
    model = spec(preprocessing=[{"name": "scale_range"}])
    assert way.applied(model).preprocessing == way.preprocessing
    assert Variant(invert=True).applied(model) == model
