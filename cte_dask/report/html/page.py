"""``report.html``: a run in one file, which needs no other file and no network."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable
from importlib import resources
from typing import Any

from cte_dask.report.html.facts import facts
from cte_dask.results.run_folder import RunFolder, read_calibration
from cte_dask.storage.files import check_apart, replacing

__all__ = ["page", "write_report"]

GALLERY_MODELS = 3


def write_report(
    run: str,
    *,
    out: str | None = None,
    calibration: str | None = None,
    gallery_models: int = GALLERY_MODELS,
    tell: Callable[[str], None] = lambda _: None,
) -> str:
    """Write the report of a run.

    Parameters
    ----------
    run
        Folder or URL that `cte rank` wrote.
    out
        The file; by default ``report.html`` beside the results.
    calibration
        A ``calibration.json`` or its folder; by default the run's own, if it has one.
    gallery_models
        Number of the best models whose best, median and worst tile are predicted again; 0 opens
        neither target nor weights.
    tell
        Receives one line per step.

    Returns
    -------
    str
        Path or URL of the report.

    Raises
    ------
    FileNotFoundError
        If there is no finished run, or no calibration where one was named.
    ValueError
        If `gallery_models` is negative.
    """
    from cte_dask.report.html.gallery import gallery

    if gallery_models < 0:
        raise ValueError(f"the gallery cannot have {gallery_models} models: give 0 or more")
    tell("reading the scores")
    folder = RunFolder(run)
    finished = folder.finished()
    if out is not None:
        check_apart(out, finished.experiment["target"]["url"])
    curve = folder.read_calibration() if calibration is None else read_calibration(calibration)
    content, summary = facts(finished, curve)
    names = [m["name"] for m in content["models"] if not m["degenerate"]][:gallery_models]
    content["gallery"] = gallery(run, summary, names, tell=tell) if names else None
    path = folder.report_url if out is None else out
    with replacing(path) as file:
        file.write(page(content))
    return path


def page(content: dict[str, Any]) -> str:
    """Render a report.

    Parameters
    ----------
    content
        From `cte_dask.report.html.facts.facts`, with the gallery under ``gallery``.

    Returns
    -------
    str
        HTML. Every text from outside is escaped. The page's security policy forbids requests, and
        all scripts and styles but its own two, which it names by their hashes.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "percent": _percent, "script_json": _script_json}
    style, script = _asset("report.css"), _asset("report.js")
    return environment.from_string(_asset("report.html.j2")).render(
        **content,
        style=style,
        script=script,
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
    )


def _asset(name: str) -> str:
    return (resources.files("cte_dask.report") / "page" / name).read_text(encoding="utf-8")


def _policy_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _script_json(value: object) -> Any:
    """Return JSON that is safe inside a script element: nothing in it can end the element."""
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    # As \u escapes they are still the same JSON, but "</script>" and "<!--" cannot occur.
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 (escaped for where it stands)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float | None, digits: int = 0) -> str:
    if value is None or math.isnan(value):
        return "–"
    percent = 100 * value
    # Rounding must not turn nearly all into "100 %", or nearly none into "0 %".
    least = 10.0**-digits
    if 0 < percent < least:
        return f"< {least:g} %"
    if 100 - least < percent < 100:
        return f"> {100 - least:g} %"
    return f"{percent:.{digits}f} %"
