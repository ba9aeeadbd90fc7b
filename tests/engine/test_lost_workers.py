"""Who is blamed when workers die: the model that kills them, whatever ran beside it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from distributed.scheduler import KilledWorker

from cte_dask.engine.jobs import Job
from cte_dask.engine.lost_workers import SchedulerLostError, Suspects, cause_of

MODELS = 3


class Ended:
    """A task that has ended."""

    def __init__(self, status: str, error: BaseException | None = None) -> None:
        self.status, self.error = status, error

    def exception(self) -> BaseException | None:
        return self.error


def killed() -> Ended:
    worker = SimpleNamespace(address="tcp://somewhere")
    return Ended("error", KilledWorker("task", worker, 3))


def suspects_of(models: int = MODELS) -> Suspects:
    return Suspects(lambda job: job.trials(models))


def tried_alone(suspects: Suspects, *deadly: int) -> list[Job]:
    """Try one suspect after the other, where some models kill; return what was tried."""
    tried = []
    while jobs := suspects.spared(suspects.next()):
        for job in jobs:
            tried.append(job)
            running = set(range(MODELS)) if job.models is None else set(job.models)
            running -= dict(job.aside).keys()
            suspects.take(job, killed() if running & set(deadly) else Ended("finished"))
    return tried


def test_a_suspect_is_tried_once_more_by_itself():
    suspects = suspects_of()
    assert suspects.take(Job(4), killed())
    assert not suspects.first, "one may be a machine that was lost: it waits"
    assert suspects.next() == [Job(4)]
    assert not suspects.take(Job(4), Ended("finished"))
    assert suspects.next() == []


def test_suspects_go_first_once_several_in_a_row_died_and_nothing_else_ended_well():
    suspects = suspects_of()
    for block in (4, 5):
        assert suspects.take(Job(block), killed())
    assert not suspects.take(Job(6), Ended("finished"))
    for block in (7, 8):
        assert suspects.take(Job(block), killed())
    assert not suspects.first, "machines are lost for reasons of their own"
    assert suspects.take(Job(9), killed())
    assert suspects.first
    assert suspects.next() == [Job(4)], "one at a time"
    assert not suspects.take(Job(4), Ended("finished"))
    assert not suspects.first


def test_the_model_that_kills_is_found_and_set_aside_for_all_blocks():
    suspects = suspects_of()
    for block in (4, 5, 6):
        assert suspects.take(Job(block), killed())
    tried = tried_alone(suspects, 1)
    assert [job.models for job in tried if job.trial] == [(0,), (1,), (2,)]
    assert list(suspects.aside) == [1]
    assert "the worker process died whenever it was tried" in suspects.aside[1]
    assert [(j.block, [m for m, _ in j.aside]) for j in tried if not j.trial] == [
        (4, []),
        (4, [1]),
        (5, [1]),
        (6, [1]),
    ]
    [later] = suspects.spared([Job(7)])
    assert [m for m, _ in later.aside] == [1]


def test_several_models_may_kill():
    suspects = suspects_of()
    suspects.take(Job(4), killed())
    tried_alone(suspects, 0, 2)
    assert list(suspects.aside) == [0, 2]


def test_a_block_that_kills_with_all_models_together_only_is_given_up():
    suspects, job = suspects_of(), Job(4)
    assert suspects.take(job, killed())
    assert suspects.take(suspects.next()[0], killed())
    trials = []
    while suspects.first and (jobs := suspects.next()):
        trials += jobs
        assert suspects.take(jobs[0], Ended("finished"))
    assert [t.models for t in trials] == [(0,), (1,), (2,)]
    assert suspects.next() == [job]
    assert not suspects.take(job, killed()), "given up, with the cause"


def test_a_job_without_parts_is_given_up_after_it_was_tried_alone():
    suspects = Suspects(lambda _: [])
    assert suspects.take(Job(4), killed())
    assert not suspects.take(suspects.next()[0], killed())


def test_other_errors_are_no_reason_to_suspect_a_block():
    suspects = suspects_of()
    assert not suspects.take(Job(4), Ended("error", RuntimeError("no")))
    assert not suspects.take(Job(4), Ended("finished"))
    assert suspects.next() == []


def test_a_task_lost_with_its_scheduler_is_no_failure_of_its_block():
    with pytest.raises(SchedulerLostError, match="--resume"):
        suspects_of().take(Job(4), Ended("cancelled"))


def test_the_cause_of_a_death_is_told_in_words():
    assert "out of memory" in cause_of(killed().exception())
    assert cause_of(RuntimeError("no")) == "RuntimeError: no"
