"""Figures of a sweep: curves, colours, the front of quality against cost."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from echo_synth.report import sweep_figures
from tests.report.tables import sweep_table


def test_the_front_is_what_nothing_beats() -> None:
    seconds, dice = np.array([1.0, 2, 3, 2, 1]), np.array([0.8, 0.9, 0.85, 0.9, 0.7])
    assert sweep_figures.pareto(seconds, dice).tolist() == [True, True, False, True, False]
    rng = np.random.default_rng(0)
    s, d = rng.random(40), rng.random(40)
    for i, kept in enumerate(sweep_figures.pareto(s, d)):
        assert kept == (d[i] > d[s < s[i]].max(initial=-1.0))


def test_scores_are_drawn_against_evaluations_and_level_lines() -> None:
    drawn = sweep_figures.scores(sweep_table())
    assert drawn is not None
    assert len(drawn.axes) == 1
    curves = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in drawn.axes[0].lines}
    assert curves["edm-l64"] == ([5, 20], pytest.approx([0.89, 0.9]))  # two seeds at 5
    assert curves["sdm"] == ([5], [0.5])
    assert curves["sdm at 1000"][1] == [0.91, 0.91]
    assert curves["real"][1] == [0.93, 0.93]
    assert len(drawn.axes[0].patches) == 2  # the level lines' intervals
    assert sweep_figures.scores(sweep_table().drop(columns="dice_lv_endo")) is None


@pytest.mark.parametrize(("dice", "label"), [(-3.0, "noise, -3"), (0.45, "noise")])
def test_a_far_floor_is_named_and_does_not_flatten_the_rest(dice: float, label: str) -> None:
    interval = {"dice_lv_endo_low": dice - 0.01, "dice_lv_endo_high": dice + 0.01}
    noise = {"cell": "noise", "kind": "noise", "dice_lv_endo": dice} | interval
    drawn = sweep_figures.scores(pd.concat([sweep_table(), pd.DataFrame([noise])], ignore_index=True))
    assert drawn is not None
    assert label in {line.get_label() for line in drawn.axes[0].lines}
    assert (drawn.axes[0].get_ylim()[0] < dice) == (dice > 0.4)


def test_level_lines_are_found_by_what_a_cell_is() -> None:
    """Whatever the cells are named, one row a training; few patients, noise of fewer images, and longer trainings are something else."""

    def row(cell: str, dice: float, **what: object) -> dict[str, object]:
        return {"cell": cell, "dice_lv_endo": dice, "dice_lv_endo_low": dice, "dice_lv_endo_high": dice} | what

    grid = sweep_table()
    levels = [
        row("real_train0", 0.92, kind="real", segmenter_seed=0),
        row("real_train1", 0.94, kind="real", segmenter_seed=1),
        row("real25_train0", 0.5, kind="real", patients=25),
        row("longer_train0", 0.98, kind="real", epochs=26),
        row("floor_longer", 0.99, kind="noise", count=8, epochs=26),
        row("floor_train0", 0.86, kind="noise", count=8),
        row("floor_train1", 0.88, kind="noise", count=8),
        row("small_floor", 0.1, kind="noise", count=2),
    ]
    drawn = sweep_figures.scores(pd.concat([grid[grid["kind"] == "synthetic"], pd.DataFrame(levels)]))
    assert drawn is not None
    lines = {line.get_label(): line.get_ydata()[0] for line in drawn.axes[0].lines}  # type: ignore[index]
    assert lines["real"] == pytest.approx(0.93)
    assert lines["noise"] == pytest.approx(0.87)


def test_throughput_averages_seeds_and_counts_in_sdm() -> None:
    drawn = sweep_figures.throughput(sweep_table())
    assert drawn is not None
    assert drawn.axes[0].lines[0].get_ydata() == pytest.approx([20, 5])
    assert drawn.axes[0].child_axes[0].get_ylabel() == "times SDM at 1000 NFE"


def test_a_model_has_one_colour_in_all_figures() -> None:
    """Also where a row has no scores yet, where SDM is a level line, and where a later row has the fewest evaluations."""
    same = {"kind": "synthetic", "seed": 0, "count": 8}
    scores = {"dice_lv_endo": 0.9, "dice_lv_endo_low": 0.8, "dice_lv_endo_high": 1.0}
    grid = {"ve": (20,), "sdm": (1000,), "edm-l64": (20, 6), "edm": (3, 6)}
    cells = [(row, nfe) for row, budgets in grid.items() for nfe in budgets]
    table = pd.DataFrame(
        [
            {"cell": f"{row}{nfe}", "row": row, "model": row, "nfe": nfe, "seconds_per_image": 0.1 * nfe}
            | same
            | scores
            for row, nfe in cells
        ]
    )
    table.loc[table["row"] == "ve", ["dice_lv_endo", "dice_lv_endo_low", "dice_lv_endo_high"]] = np.nan
    colours = []
    for draw in (sweep_figures.scores, sweep_figures.throughput, sweep_figures.cost_front):
        drawn = draw(table)
        assert drawn is not None
        handles, labels = drawn.axes[0].get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))
        colours.append([getattr(shown[n], "lines", [shown[n]])[0].get_color() for n in ("edm-l64", "edm")])
        for line in drawn.axes[0].get_lines():
            if str(line.get_label()) in ("edm-l64", "edm"):
                assert list(line.get_xdata()) == sorted(line.get_xdata())
    assert colours[0] == colours[1] == colours[2]


@pytest.mark.parametrize(
    ("cells", "shape"),
    [
        ([(name, nfe) for name in "abc" for nfe in (4, 10)], (3, 3)),  # a grid, and a column for the map
        ([(name, nfe) for nfe, name in enumerate("abcdefg", 1)], (2, 4)),  # would be a diagonal
        ([("a", 4)], (1, 2)),
    ],
)
def test_images_stand_in_a_grid_unless_most_of_it_is_empty(
    cells: list[tuple[str, int]], shape: tuple[int, int]
) -> None:
    images = {cell: np.full((4, 4), i, np.uint8) for i, cell in enumerate(cells)}
    drawn = sweep_figures.image_grid(images, np.zeros((4, 4), np.uint8))
    assert drawn is not None
    places = drawn.axes[0].get_gridspec()
    assert (places.nrows, places.ncols) == shape
    titles = [axis.get_title() for axis in drawn.axes if axis.get_images()]
    assert sorted(titles) == sorted(["label map", *(f"drawn: {name}, {nfe} NFE" for name, nfe in cells)])
    for (name, nfe), image in images.items():
        (axis,) = [a for a in drawn.axes if a.get_title() == f"drawn: {name}, {nfe} NFE"]
        assert (np.asarray(axis.get_images()[0].get_array()) == image).all()


def test_a_long_legend_hides_no_point() -> None:
    few, many = sweep_table(), sweep_table()
    drawn = many[many["kind"] == "synthetic"]
    copies = [drawn.assign(row=f"r{i}", cell=drawn["cell"] + str(i)) for i in range(8)]
    below = []
    for table in (few, pd.concat([many, *copies])):
        figure = sweep_figures.cost_front(table)
        assert figure is not None
        figure.canvas.draw()
        axis = figure.axes[0]
        legend = axis.get_legend()
        assert legend is not None
        below.append(legend.get_window_extent().y1 < axis.get_window_extent().y0)
    assert below == [False, True]


def test_the_front_counts_whole_datasets_where_they_differ_in_size() -> None:
    table = sweep_table()
    drawn = sweep_figures.cost_front(table)
    assert drawn is not None
    assert drawn.axes[0].get_xlabel().startswith("seconds an image")
    table.loc[table["nfe"] == 5, "count"] = 32
    table.loc[0, "dice_lv_endo"] = table.loc[0, "dice_lv_endo_high"] + 1e-15  # a mean beyond its own bound
    drawn = sweep_figures.cost_front(table)
    assert drawn is not None
    assert drawn.axes[0].get_xlabel().startswith("seconds a dataset")
    costs = {p.get_text(): p.xy[0] for p in drawn.axes[0].texts}
    assert costs["5"] == pytest.approx(costs["20"])  # 32 images at a quarter of the evaluations


def test_the_front_shows_the_error_of_ef_and_money_where_they_are_known() -> None:
    table = sweep_table()
    drawn = sweep_figures.cost_front(table)
    assert drawn is not None
    assert len(drawn.axes) == 1
    assert not drawn.axes[0].child_axes
    grid = table["kind"] == "synthetic"
    table.loc[grid, "ef_mae"] = [5.0, 7.0, 4.0, 9.0, 4.5]  # by cell: the two seeds at 5 NFE are averaged
    table["money_per_1000_images"] = table["seconds_per_image"] * 1000 / 3600 * 7.2
    drawn = sweep_figures.cost_front(table)
    assert drawn is not None
    dice, ef = drawn.axes
    assert ef.get_ylabel() == "mean absolute error of EF, points"
    front = next(line for line in ef.lines if line.get_label() == "front")
    assert list(front.get_ydata()) == [6.0, 4.0]  # less is better; SDM is slower than what is as good
    for axis in (dice, ef):
        (money,) = axis.child_axes
        assert money.get_xlabel() == "price of 1000 images"
        drawn.canvas.draw()
        assert money.get_xlim() == pytest.approx([2 * end for end in axis.get_xlim()])  # 7.2 an hour
    table["money_per_1000_images"] = 0.0
    drawn = sweep_figures.cost_front(table)
    assert drawn is not None
    assert not drawn.axes[0].child_axes


def test_twenty_rows_have_twenty_colours() -> None:
    table = pd.DataFrame({"kind": "synthetic", "row": [f"r{i}" for i in range(20)]})
    found = sweep_figures.colours(table)
    assert len(set(found.values())) == 20
    assert found["r0"] == to_hex("tab:blue")
