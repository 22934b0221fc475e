"""Statistics, and what fig. 7's numbers are made to say."""

import types
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from experiments.report import capacity, convergence
from experiments.report.content import Verdict
from experiments.report.statistics import compare, interval, p_value, range_of
from tests.experiments.test_configs import composed

A = np.array([1.0, 2.5, 3.0, 4.5, 7.0])
B = np.array([1.5, 2.3, 4.0, 6.5, 10.0])


def test_comparisons_are_scipys():
    found = compare(A, B)
    assert found.t_test == pytest.approx(scipy.stats.ttest_rel(A, B).pvalue)
    # By hand: only the smallest difference is positive. Of the 32 choices of signs, 2 give positive
    # ranks that sum to at most 1, and as many negative ones.
    assert found.wilcoxon == pytest.approx(4 / 32)
    low, high = scipy.stats.ttest_rel(A, B).confidence_interval(0.95)
    assert found.interval == pytest.approx((low, high))
    assert found.effect == pytest.approx(np.mean(A - B) / np.std(A - B, ddof=1))
    assert found.difference.value == pytest.approx(-1.26)


def test_too_few_runs_have_no_interval_and_no_p():
    found = compare([1.0, np.nan], [2.0, 1.0])
    assert found.runs == 1
    assert np.isnan([found.t_test, found.wilcoxon, found.effect, *interval([1.0])]).all()
    assert range_of(found.interval) == p_value(found.t_test) == "–"
    assert np.isnan(compare(A, A).t_test)  # no spread to judge by


def test_at_equal_parameters_lies_on_the_line_between_neighbours():
    parameters = np.array([10, 1000])
    errors = np.array([[0.1, 0.4], [0.001, 0.004]])
    between = capacity.at_parameters(np.array([5, 100, 1000]), parameters, errors)
    np.testing.assert_allclose(between[1], [0.01, 0.04])  # the middle, in both logarithms
    np.testing.assert_allclose(between[2], errors[1])
    assert np.isnan(between[0]).all()


def curves(errors, parameters):
    """A network's curves with these last errors, (widths, runs)."""
    made = {}
    for width, row, count in zip((2, 4, 8), errors, parameters, strict=True):
        ones = np.ones((1, row.size))
        values = types.SimpleNamespace(
            error=row[None],
            converged=ones,
            adjoint_converged=ones,
            solver_steps=ones,
            rejected=ones,
        )
        made[width] = types.SimpleNamespace(test=values, training=values, num_parameters=count)
    return made


def test_the_claims_of_figure_7_follow_the_numbers(tmp_path):
    rng = np.random.default_rng(0)
    noise = 1 + 0.01 * rng.standard_normal((3, 6))
    falls = np.array([[0.09], [0.06], [0.04]])
    gap = np.array([[1.3], [1.15], [1.05]])
    both = {
        "feedforward": curves(2 * falls * noise, (10, 20, 40)),
        "semi": curves(gap * falls * noise**2, (15, 30, 60)),
        "exact": curves(falls * noise**1.5, (15, 30, 60)),
    }
    section = capacity.present(both, config=composed("capacity"), folder=tmp_path)
    assert [claim.verdict for claim in section.claims] == [Verdict.HOLDS] * 5
    swapped = both | {"semi": both["exact"], "exact": both["semi"], "feedforward": both["exact"]}
    section = capacity.present(swapped, config=composed("capacity"), folder=tmp_path)
    verdicts = [claim.verdict for claim in section.claims]
    # Exact is now the worst network; semi is as good as the feed-forward one, to the digit.
    assert verdicts[0] is Verdict.FAILS
    assert verdicts[1] is Verdict.UNDECIDED
    assert verdicts[-1] is Verdict.FAILS
    assert len(section.summary) == 9


def test_convergence_is_drawn_and_tabled(tmp_path):
    c = {"exact": curves(np.ones((3, 2)), (1, 1, 1))[2]}
    figure = convergence.figure(Path(tmp_path / "c"), c)
    assert figure.path.with_suffix(".svg").exists()
    assert convergence.table(c).rows[0][:2] == ("exact IRN", "100%")
