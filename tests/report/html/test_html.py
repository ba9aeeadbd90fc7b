"""The report: what it says is what the run found, whatever names and troubles the run has."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import shutil
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from processes import Command
from troubled import EVIL, cte

from cte_dask.engine.racing.goal import Goal
from cte_dask.report.html.charts import ticks
from cte_dask.report.html.heat_maps import NOT_SCORED, SAYS_NOTHING
from cte_dask.results.provenance import shown_url

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Elements, attributes and texts of a page; it must be well nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.scripts.append((self.elements[-1][1], data))
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def data(self) -> dict:
        return json.loads(next(text for at, text in self.scripts if at.get("id") == "data"))


@pytest.fixture(scope="module")
def html(run) -> str:
    result = cte("report", run, "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == f"{run}/report.html"
    return (run / "report.html").read_text()


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


@pytest.fixture
def ranking(run) -> dict:
    """What ranking.json holds; read anew for each test, which may change it."""
    return json.loads((run / "ranking.json").read_text())


def test_the_answer_is_the_best_model_that_is_not_degenerate(page, ranking):
    first = ranking["models"][0]
    score = first["scores"][ranking["score"]]
    said = page.text.index(f"{score['cte']:.3f}")
    assert page.text.index(first["name"]) < said
    assert f"{score['low']:.3f} – {score['high']:.3f}" in page.text
    assert "flood reaches 1.000, but predicts everything" in page.text


def test_every_model_is_told_with_rank_interval_flag_or_reason(page, ranking):
    for model in ranking["models"]:
        assert model["name"] in page.text
        if model["rank"] is None:
            assert " ".join(model["excluded"].split()) in page.text
        else:
            score = model["scores"][ranking["score"]]
            assert f"{score['low']:.3f} – {score['high']:.3f}" in page.text
        for flag in model["flags"]:
            assert f"⚑ {flag}" in page.text
    assert "incomplete" in page.text


def test_being_behind_in_every_resample_is_not_yet_being_beaten(moved, ranking):
    first, *others = [m for m in ranking["models"] if not m["flags"] and m["rank"] is not None]
    for model in (first, *others):
        model["transfer"]["value"] = 0.9
        model["beaten"] = None if model is first else 1.0
    for as_good, told in ((True, "may be as good"), (False, "clearly beaten")):
        ranking["bank"]["as_good"] = [m["name"] for m in others if as_good]
        (moved / "ranking.json").write_text(json.dumps({**ranking, "primary": "transfer"}))
        assert cte("report", moved, "--quiet", "--gallery", "0").exit_code == 0
        text = Page((moved / "report.html").read_text()).text
        assert text.count(f"{told} behind in 100 %") == len(others) == 1
        assert (
            "behind the first one in 95 % of the resamples or more, and by more than 0.05" in text
        )


def test_what_a_race_has_proven_is_not_clearly_beaten_either_if_estimates_say_so(moved, ranking):
    first, other = [m for m in ranking["models"] if not m["flags"] and m["rank"] is not None]
    for model in (first, other):
        model["transfer"]["value"] = 0.9
    race = {"verdict": "decided: the first is the best", "decided": True, "goal": asdict(Goal())}
    race |= {"proven": [first["name"]], "close": [], "rivals": [], "dropped": {}}
    for as_good, told, beats in (([other["name"]], "may be as good", 0), ([], "clearly beaten", 1)):
        ranking["bank"]["as_good"] = as_good
        ranking["blocks"]["sampled"] = 1
        (moved / "ranking.json").write_text(json.dumps({**ranking, **race, "primary": "transfer"}))
        assert cte("report", moved, "--quiet", "--gallery", "0").exit_code == 0
        text = Page((moved / "report.html").read_text()).text
        assert f"Clearly beats {beats} of 1 error at most 5 % in all, and by more than 0.05" in text
        sign, takes = ("≈", "Leading:") if as_good else ("✓", "Take")
        assert f"{sign} Decided: the first is the best." in text
        assert f"{takes} {first['name']}" in text
        assert (f"±0.05: {other['name']} may be as good" in text) == bool(as_good)
        assert f" {told} " in text[text.index("Against the first") :]


def test_names_from_outside_are_text_everywhere(html, page):
    assert EVIL in page.text
    assert "<script>alert" not in html
    assert html.count("<script") == 2
    assert html.count("</script") == 2
    assert page.data["models"].count(EVIL) == 1
    selects = [at for tag, at in page.elements if "data-gallery" in at]
    assert EVIL in [at["data-gallery"] for at in selects]


def test_the_policy_allows_this_script_and_style_and_nothing_else(html, page):
    policy = next(at["content"] for tag, at in page.elements if at.get("http-equiv"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind, pattern in (
        ("script", r"<script>(.*?)</script>"),
        ("style", r"<style>(.*?)</style>"),
    ):
        (text,) = re.findall(pattern, html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    assert html.index("Content-Security-Policy") < html.index("<style>")


def test_nothing_in_the_page_points_outside_of_it(page):
    for tag, at in page.elements:
        for name, value in at.items():
            assert not name.startswith("on"), f"{tag} has a handler"
            assert name != "style", "the policy forbids it"
            if name in ("src", "href", "action", "data", "srcset", "poster"):
                assert value.startswith(("#", "data:image/png;base64,")), (tag, value)
    targets = {at["href"][1:] for tag, at in page.elements if tag == "a"}
    assert targets <= {at.get("id") for _, at in page.elements}


def test_the_maps_hold_every_tile(page, run):
    data = page.data
    assert (data["cells"], data["tiles"]) == ([4, 3, 4], [4, 3, 4])
    values = np.frombuffer(base64.b64decode(data["values"]), "<u2").reshape(-1, 4, 3, 4)
    tiles = pq.read_table(run / "tiles.parquet").to_pandas()
    metric, perturbation = data["metric"].split("@")
    for number, name in enumerate(data["models"]):
        rows = tiles[(tiles.model == name) & (tiles.perturbation == perturbation)]
        for row in rows.itertuples():
            found = values[number, row.z0, row.y0 // 32, row.x0 // 32]
            if row.status == "masked":
                assert found == NOT_SCORED
            elif np.isnan(getattr(row, metric)):
                assert found == SAYS_NOTHING
            else:
                assert found / data["steps"] == pytest.approx(getattr(row, metric), abs=1e-5)


def test_a_degenerate_model_wins_no_tile(page):
    assert "flood" in page.data["models"]
    assert "flood" not in page.data["winners"]
    winner = np.frombuffer(base64.b64decode(page.data["winner"]), np.uint8).reshape(4, 3, 4)
    assert (winner[:, 0, 0] == 255).all(), "masked"


def test_what_was_not_scored_is_counted(page):
    assert "4 masked" in page.text


def test_predicting_again_gives_what_the_run_recorded(page):
    pairs = re.findall(r"Predicted again: (\d\.\d+); recorded: (\d\.\d+)", page.text)
    assert len(pairs) == 2 * 3
    assert [again for again, _ in pairs] == [recorded for _, recorded in pairs]


def test_each_gallery_tile_has_four_pictures_with_a_text(page):
    pictures = [at for tag, at in page.elements if tag == "img"]
    assert len(pictures) == 2 * 3 * 4
    assert all(at["alt"] for at in pictures)


def test_without_its_target_the_rest_stands(moved):
    shutil.move(moved.parent, moved.parent.with_name("elsewhere"))
    moved = moved.parent.with_name("elsewhere") / "RUN"
    text = (moved / "experiment.yaml").read_text()
    gone = re.sub(r"url: .*target\.zarr", "url: /nowhere/target.zarr", text)
    (moved / "experiment.yaml").write_text(gone)
    assert cte("report", moved, "--quiet").exit_code == 0
    page = Page((moved / "report.html").read_text())
    assert "There are no pictures, because the target or the models cannot be opened" in page.text
    assert "/nowhere/target.zarr" in page.text
    assert not [tag for tag, _ in page.elements if tag == "img"]


def test_without_the_weights_of_a_model_the_rest_stands(moved, tmp_path):
    text = (moved / "experiment.yaml").read_text()
    (moved / "experiment.yaml").write_text(text.replace("bank/model-0.safe", "bank/gone.safe"))
    # not in this process, which holds the network still
    assert Command(["report", moved, "--quiet"], tmp_path).wait() == 0
    page = Page((moved / "report.html").read_text())
    assert "Its tiles could not be predicted again" in page.text
    assert "gone.safetensors" in page.text
    assert len([tag for tag, _ in page.elements if tag == "img"]) == 3 * 4, "of the other model"


def test_no_gallery_opens_neither_target_nor_weights(moved, monkeypatch):
    monkeypatch.setattr("cte_dask.results.experiment_file.reopen", None)
    assert cte("report", moved, "--quiet", "--gallery", "0").exit_code == 0
    page = Page((moved / "report.html").read_text())
    assert "gallery" not in {at.get("id") for _, at in page.elements}


def test_the_command_it_prints_repeats_the_run(page, run, tmp_path):
    command = next(t for t in page.texts if t.startswith("cte rank"))
    arguments = shlex.split(command)[1:]
    arguments[arguments.index("--out") + 1] = str(tmp_path / "AGAIN")
    done = cte(*arguments, "--cluster", "none", "--quiet")
    assert done.exit_code == 3, done.output
    first, again = (
        yaml.safe_load((out / "experiment.yaml").read_text())["hash"]
        for out in (run, tmp_path / "AGAIN")
    )
    assert first == again


@pytest.mark.slow
def test_the_strength_curve_is_shown_where_there_is_one(run, moved):
    folder = run.parent
    options = ["--tile", "1,32,32", "--cluster", "none", "--quiet", "--strengths", "0.1,0.3"]
    more = ["--bank", folder / "bank" / "bank.yaml", "--out", moved, "--pilot-tiles", "6"]
    done = cte("calibrate", folder / "target.zarr", *more, *options)
    assert done.exit_code in (0, 3), done.output
    assert cte("report", moved, "--quiet", "--gallery", "0").exit_code == 0
    page = Page((moved / "report.html").read_text())
    chosen = json.loads((moved / "calibration.json").read_text())["chosen"]
    assert "strength" in {at.get("id") for _, at in page.elements}
    assert f"Chosen: {chosen}" in page.text
    elsewhere = moved / "other.html"
    named = cte("report", run, "--calibration", moved, "--out", elsewhere, "--gallery", "0")
    assert named.exit_code == 0
    assert f"Chosen: {chosen}" in Page(elsewhere.read_text()).text


def test_a_note_that_all_models_have_is_told_once(moved, ranking):
    for model in ranking["models"]:
        model["note"] = "voxels are twice as large"
    (moved / "ranking.json").write_text(json.dumps(ranking))
    assert cte("report", moved, "--quiet", "--gallery", "0").exit_code == 0
    assert Page((moved / "report.html").read_text()).text.count("twice as large") == 1


def test_a_run_of_degenerate_models_recommends_none(moved, ranking):
    for model in ranking["models"]:
        model["flags"] = ["predicts nothing"]
    (moved / "ranking.json").write_text(json.dumps(ranking))
    assert cte("report", moved, "--quiet").exit_code == 0
    assert "No model can be recommended" in Page((moved / "report.html").read_text()).text


def test_the_same_run_gives_the_same_report(run, html, tmp_path):
    assert cte("report", run, "--out", tmp_path / "r.html", "--quiet").exit_code == 0
    assert (tmp_path / "r.html").read_text() == html


def test_reports_of_what_is_no_run_are_refused(tmp_path, run):
    for arguments, word in (
        ((tmp_path,), "no finished run"),
        ((run, "--calibration", tmp_path), "no calibration"),
        ((run, "--gallery", "-1"), "-1"),
    ):
        result = cte("report", *arguments, "--quiet")
        assert result.exit_code == 2
        assert word in result.stderr


def test_the_log_tells_what_the_run_took(run, page):
    (session,) = json.loads((run / "log.json").read_text())["sessions"]
    assert session["state"] == "incomplete"
    assert session["blocks"] > 0
    assert session["seconds"] > 0
    assert session["started"] in page.text
    assert Path(session["bank"]).is_absolute()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a.zarr", "s3://bucket/a.zarr"),
        ("https://u:p@host:8/a?sig=1#x", "https://…@host:8/a?…"),
        ("relative/a.zarr", "relative/a.zarr"),
    ],
)
def test_secrets_of_a_url_are_not_shown(url, shown):
    assert shown_url(url) == shown


@pytest.mark.parametrize("low", [0.0, 0.111, 0.913, 0.99])
@pytest.mark.parametrize("width", [0.003, 0.05, 0.4, 1.0])
@pytest.mark.parametrize("most", [2, 4, 5])
def test_marks_of_an_axis_are_few_and_inside(low, width, most):
    marks = ticks(low, low + width, most)
    assert 1 <= len(marks) <= most
    assert all(low - 1e-6 <= m <= low + width + 1e-6 for m in marks)
    assert marks == sorted(set(marks))


def test_where_no_model_fits_the_page_says_so_and_decides_nothing(moved, ranking):
    warning = "the best of them is expected to reach an F1 of 0.31 only"
    ranking["bank"] |= {"warning": warning, "trusted": False}
    (moved / "ranking.json").write_text(json.dumps(ranking))
    assert cte("report", moved, "--quiet", "--gallery", "0").exit_code == 0
    text = Page((moved / "report.html").read_text()).text
    assert "No model of this bank can be trusted here" in text
    assert warning in text
    assert "Decided" not in text
    assert "Take " not in text
