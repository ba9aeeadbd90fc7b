"""Where a run's numbers come from: the command that repeats it, URLs as they may be shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

__all__ = ["recorded_target", "repeat_command", "shown_url", "shown_urls"]


def repeat_command(
    experiment: Mapping[str, Any],
    bank: str,
    goal: Mapping[str, Any] | None = None,
    *,
    out: str = "RUN",
    labels: str | None = None,
) -> str:
    """Return the command that computes the same scores again.

    Parameters
    ----------
    experiment
        Content of ``experiment.yaml``.
    bank
        Path or URL of the bank.
    goal
        What an anytime run was to find out, of ``ranking.json``; None of an exhaustive one.
    out
        Folder or URL of the run.
    labels
        Folder of labelled tiles with which the run that is there goes on; None to repeat it.

    Returns
    -------
    str
        A line for a POSIX shell; it leads to an experiment of the same hash.
    """
    target = experiment["target"]
    triples = {"--tile": experiment["tile"], "--block": experiment["blocks"]["tiles"]}
    batches = {m["batch"] for m in experiment["models"]}
    options: list[tuple[str, Any]] = [
        ("--bank", bank),
        ("--out", shown_url(out)),
        ("--level", target["level"]),
        ("--axes", target["axes"]),
        ("--channel", target["channel"]),
        ("--time", target["time"]),
        ("--roi", target["roi"]),
        ("--mask", target["mask"]),
        *((name, ",".join(map(str, value))) for name, value in triples.items()),
        *(("--perturb", p) for p in experiment["perturbations"]),
        *(("--metric", m) for m in experiment["metrics"]),
        ("--rank-by", experiment["rule"]),
        *((f"--{name}", experiment[name]) for name in ("seed", "repeats", "border")),
        ("--scales", _listed(experiment.get("scales"))),
        ("--batch", batches.pop() if len(batches) == 1 else None),
        *((f"--{name}", experiment[name]) for name in ("threads", "device", "precision")),
    ]
    flags = ["--anonymous"] if target.get("anonymous") else []
    arguments = [str(item) for option in options if option[1] is not None for item in option]
    flags += ["--exhaustive"] if goal is None else _goal_options(goal)
    flags += [] if labels is None else ["--resume", "--labels", shown_url(labels)]
    return shlex.join(["cte", "rank", shown_url(recorded_target(target)), *arguments, *flags])


def recorded_target(target: Mapping[str, Any]) -> str:
    """Return what opens a run's target again, of its description in ``experiment.yaml``.

    Examples
    --------
    >>> recorded_target({"url": "/a.zarr", "member": "raw"}), recorded_target({"url": "/b.zarr"})
    ('/a.zarr::raw', '/b.zarr')
    """
    member = target.get("member")
    return f"{target['url']}::{member}" if member else str(target["url"])


def _listed(numbers: Sequence[float] | None) -> str | None:
    return None if numbers is None else ",".join(f"{n!r}" for n in numbers)


def _goal_options(goal: Mapping[str, Any]) -> list[str]:
    seconds = None if goal["seconds"] is None else f"{goal['seconds']:g}s"
    top = ["--full-order"] if goal["top"] is None else ["--top", str(goal["top"])]
    margins = [text for n in ("delta", "epsilon") for text in (f"--{n}", f"{goal[n]:g}")]
    return ["--until", str(goal["blocks"] or seconds or "decided"), *top, *margins]


def shown_url(url: str) -> str:
    """Return a URL without what could be a secret: user, password and query.

    Examples
    --------
    >>> shown_url("https://me:secret@host/a.zarr?X-Amz-Signature=1")
    'https://…@host/a.zarr?…'
    >>> shown_url("/data/a.zarr")
    '/data/a.zarr'
    """
    if "://" not in url:
        return url
    split = urlsplit(url)
    _, separator, host = split.netloc.rpartition("@")
    query = "…" if split.query else ""
    return urlunsplit((split.scheme, f"…@{host}" if separator else host, split.path, query, ""))


URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+?(?=[.,:;)\]}'\"]*(?:\s|$))")


def shown_urls(text: str) -> str:
    """Return a text whose URLs are without what could be a secret; see `shown_url`.

    Examples
    --------
    >>> shown_urls("no array at https://me:secret@host/a.zarr?sig=1: is it one?")
    'no array at https://…@host/a.zarr?…: is it one?'
    """
    return URL.sub(lambda match: shown_url(match[0]), text)
