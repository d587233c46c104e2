"""The local solver: lanes of a batch do not wait for each other."""

import io
import re

import numpy as np
from laws.law_data import surface

from scaling.laws import Loss, progress, solver
from scaling.laws.catalogue import get_law
from scaling.laws.problem import build_problem
from scaling.laws.screen import choose, screen


def problem_of(law="chinchilla"):
    columns = surface(0.01)
    return build_problem(get_law(law), columns, columns["loss"], Loss())


def test_lanes_that_are_done_leave_the_others(monkeypatch):
    problem = problem_of()
    starts, _ = choose(screen(problem), 64)
    together = solver.solve(problem, starts)
    steps = []
    programs = solver._programs

    def counted(*form):
        begin, minimise = programs(*form)

        def run(state, lane, data, limit):
            end = minimise(state, lane, data, limit)
            steps.append(int(np.max(end["steps"])) - int(np.min(state["steps"])))
            return end

        return begin, run

    monkeypatch.setattr(solver, "_programs", counted)
    ends = solver.solve(problem, starts)
    np.testing.assert_array_equal(ends.vectors, together.vectors)
    size = solver.chunk_size(128)
    waiting = sum(int(ends.iterations[i : i + size].max()) for i in range(0, 64, size))
    assert sum(steps) < waiting


def test_one_program_serves_all_segments():
    problem = problem_of()
    starts, _ = choose(screen(problem), 8)
    solver._programs.cache_clear()
    solver.solve(problem, starts)
    form = (problem.law, problem.slots, problem.kinds, problem.loss.space, False)
    minimise = solver._programs(*form)[1]
    assert minimise._cache_size() == 1


def test_of_a_race_the_best_lanes_go_on():
    problem = problem_of("farseer")
    starts, _ = choose(screen(problem), 32)
    ends = solver.solve(problem, starts, survivors=4)
    beyond = ends.iterations > solver.RACE
    assert 1 <= beyond.sum() <= 4
    at_race = solver.solve(problem, starts, max_steps=solver.RACE)
    assert ends.values.min() <= at_race.values.min()


def test_steps_that_bend_with_a_valley_are_fewer(monkeypatch):
    problem = problem_of("farseer")
    starts, _ = choose(screen(problem), 32)
    bent = solver.solve(problem, starts)
    monkeypatch.setattr(solver, "BEND", 0.0)
    solver._programs.cache_clear()
    straight = solver.solve(problem, starts)
    solver._programs.cache_clear()
    assert bent.converged.sum() > straight.converged.sum()
    assert bent.iterations.sum() < 0.9 * straight.iterations.sum()
    assert bent.values.min() <= straight.values.min() * (1 + 1e-9)


def test_the_share_that_is_done_never_falls():
    problem = problem_of()
    starts, _ = choose(screen(problem), 400)
    stream = io.StringIO()
    with progress.shown(stream, seconds=0.01), progress.step("fit"):
        solver.solve(problem, starts)
    shares = [int(s) for s in re.findall(r"fit: (\d+)%", stream.getvalue())]
    assert shares
    assert shares == sorted(shares)
    assert shares[-1] <= 100
