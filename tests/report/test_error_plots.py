import numpy as np
import pytest

from wakeword_keras.report import error_plots, style


@pytest.mark.parametrize(("count", "rows"), [(13, 13), (30, 30), (100, 30)])
def test_the_worst_layers_are_shown_in_the_order_of_the_graph(count, rows):
    own = np.random.default_rng(0).permutation(count) + 10.0
    figure = error_plots.layer_bars([str(i) for i in range(count)], own, own - 3)
    (axes,) = figure.axes
    shown = [int(label.get_text()) for label in axes.get_yticklabels()]
    assert shown == sorted(np.argsort(own)[:rows])
    assert (f"worst 30 of {count}" in axes.get_title(loc="left")) == (rows < count)


def test_bars_are_the_layers_own_error_and_the_three_worst_are_red():
    own = np.array([50.0, 20, 30, 90, 25])
    (axes,) = error_plots.layer_bars(list("abcde"), own, own - 5).axes
    bars = {round(bar.get_y() + 0.36): bar for bar in axes.patches}
    assert [bars[i].get_width() for i in range(5)] == [50, 20, 30, 80, 25]
    red = {i for i, bar in bars.items() if bar.get_facecolor()[0] > 0.9}
    assert red == {1, 2, 4}


def test_densities_of_steps_with_other_bins_are_alike():
    steps = {"a": ((-1.0, 0.0, 1.0), (5, 5)), "b": ((-2.0, 0.0, 2.0), (10, 10))}
    (axes,) = error_plots.score_errors(steps).axes
    heights = [patch.get_data().values for patch in axes.patches]
    np.testing.assert_allclose(heights, [[0.5, 0.5], [0.25, 0.25]])
    assert axes.get_xlim() == (-2, 2)


def test_no_error_at_all_has_a_picture():
    figure = error_plots.score_errors({"a": ((-1.0, 0.0, 1.0), (0, 0))})
    assert style.to_svg(figure, "a").startswith("<svg")


def test_confusables_stand_at_their_logits_even_when_sure():
    scores = {"int8": ([0.5, 0.0], [0.9, 1.0])}
    (axes,) = error_plots.confusables(["dog", "cat"], scores, {"int8": 0.5}).axes
    dots = axes.get_lines()[0].get_xdata()
    assert dots[0] == pytest.approx(np.log(9))
    assert np.isfinite(dots).all()
    assert axes.get_yticklabels()[0].get_text() == "dog"


def test_no_confusables_have_a_picture():
    figure = error_plots.confusables(
        [], {"fp32": ([], []), "int8": ([], [])}, {"fp32": 0.5, "int8": 0.5}
    )
    assert style.to_png(figure).startswith(b"\x89PNG")
