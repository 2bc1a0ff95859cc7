import pytest
from test_report import findings_of, report_of

from wakeword_keras.report import page
from wakeword_keras.report.verdicts import Verdict


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0000"), (1e-7, "1.0e-07"), (0.5, "0.5000"), (0.99998, "1 − 2.0e-05"), (1, "1.0000")],
)
def test_a_probability_near_a_limit_is_not_written_as_the_limit(value, text):
    assert page._probability(value) == text


def test_verdicts_stand_in_their_order_with_their_level_and_are_escaped():
    lines = [
        Verdict("a", "fair", "first & foremost", "2 % of it"),
        Verdict("b", "poor", "then <b>", "x"),
        Verdict("c", "open", "last", "y"),
    ]
    written = page.render(findings_of(report_of(warm=False)), lines, {})
    assert '<section class="card verdict fair">' in written
    assert '<section class="card verdict poor">' in written
    places = [written.index(t) for t in ("first &amp; foremost", "then &lt;b&gt;", ">last<")]
    assert places == sorted(places)
    assert [written.count(f'aria-label="{level}"') for level in ("poor", "open", "good")] == [
        0,
        1,
        0,
    ]
    assert "2\N{NO-BREAK SPACE}% of it" in written


def test_a_picture_that_is_not_there_leaves_no_gap():
    written = page.render(findings_of(report_of(warm=False)), [Verdict("a", "good", "b", "c")], {})
    assert "<figure" not in written
