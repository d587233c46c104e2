import itertools

import pytest
from helpers import ROOT
from sweep_helpers import sweep_file

from scaling import configs
from scaling.sweeps import (
    Sweep,
    axis,
    chain,
    cost,
    data_constrained,
    design,
    filter_,
    isoflop,
    ladder,
    power_rule,
    product,
    seeds,
    settings,
    widths,
    zip_,
)

BASE = {
    "task": {"name": "language_model"},
    "data": {"source": {"name": "synthetic_zipf", "base": 8, "digits": 2}, "seq_len": 24},
    "model": {"name": "transformer", "max_len": 64},
    "optim": {"name": "adamw", "schedule": {"name": "linear"}},
    "train": {"batch_size": 4, "steps": 10},
}


def points(one, base=BASE):
    return [(dict(p.settings), dict(p.axes)) for p in one.points(base)]


def made(one):
    return design.cells(design.Sweep(BASE, one, "made"))[0]


def test_combinators_equal_itertools():
    a, b = axis("train.steps", (5, 6, 7)), seeds(2)
    assert [s for s, _ in points(product(a, b))] == [
        {"train.steps": x, "seed": y} for x, y in itertools.product((5, 6, 7), (0, 1))
    ]
    assert points(chain(a, b)) == points(a) + points(b)
    assert points(zip_(a, seeds(3)))[2] == ({"train.steps": 7, "seed": 2}, {"steps": 7, "seed": 2})
    assert product(a, b).size == 6
    assert [c.axes["steps"] for c in made(filter_(a, lambda c: c.train.steps % 2))] == [5, 7]


def test_a_point_twice_is_one_cell_and_says_so():
    cells, notes = design.cells(Sweep(BASE, chain(seeds(2), seeds(3)), "x"))
    assert len(cells) == 3
    assert "2 points" in notes[0]


def test_ids_ignore_what_does_not_change_the_result():
    (one,) = made(axis("seed", (1,)))
    other = configs.with_values(BASE, {"seed": 1, "mesh.data": 2, "track.every": 1})
    assert configs.fingerprint(configs.resolve(other)) == one.id
    assert (
        len({c.id for c in made(product(seeds(2), axis("optim.learning_rate", (0.1, 0.2))))}) == 4
    )


@pytest.mark.parametrize(
    ("one", "key", "words"),
    [
        (axis("optim.learning_rat", (1.0,)), "optim.learning_rat", "cell 1 (learning_rat=1)"),
        (axis("train.batch_size", (4, 0)), "train.batch_size", "cell 2 (batch_size=0)"),
        (axis("model.num_heads", (4, 3)), "model.num_heads", "cell 2"),
        (axis("seed", ()), "--sweep", "no cells"),
        (seeds(1_000_000), "--sweep", "1,000,000 cells"),
        (zip_(seeds(2), axis("train.steps", (1,))), "zip_", "[2, 1] points"),
        (product(seeds(2), seeds(2)), "seed", "two parts"),
        (isoflop((1e3,), ladder((32,))), "isoflop", "steps of size"),
        (data_constrained((10,), (1,)), "data_constrained", "less than one step"),
    ],
)
def test_a_design_that_cannot_run_says_where(one, key, words):
    with pytest.raises(configs.ConfigError) as raised:
        made(one)
    assert raised.value.key == key
    assert words in str(raised.value)


def test_isoflop_spends_the_budget_by_the_exact_count():
    sizes = ladder(widths(16, 64, 3, 16))
    cells = made(isoflop((2e10, 8e10), sizes))
    assert len(cells) == 6
    for cell in cells:
        spent = cost.measure(cell.config)
        assert spent.flops == pytest.approx(cell.axes["budget"], rel=0.05)
        # Tables do no work and attention does: 6 N D is another number.
        assert 6 * spent.params * spent.units != pytest.approx(spent.flops, rel=0.02)


def test_a_product_solves_tokens_under_what_stands_left_of_it():
    pair = made(product(axis("data.seq_len", (24, 48)), isoflop((4e9,), ladder((32,)))))
    for cell in pair:
        assert cost.measure(cell.config).flops == pytest.approx(4e9, rel=0.05)
    assert pair[0].config.train.steps > 1.9 * pair[1].config.train.steps


def test_sizes_around_an_optimum_move_with_the_budget():
    sizes = ladder(widths(16, 128, 8, 16))
    rule = power_rule(params=30_000, flops=1e11)
    near = isoflop((1e11, 1.6e12), sizes, per_budget=3, optimum=rule)
    by_budget = {}
    for cell in made(near):
        by_budget.setdefault(cell.axes["budget"], []).append(cost.measure(cell.config).params)
    for budget, params in by_budget.items():
        assert len(params) == 3
        assert params[0] < rule(budget) < params[-1]


def test_ladder_rule_is_as_stated():
    assert widths(16, 128, 4) == (16, 32, 64, 128)
    (size,) = ladder((96,), aspect=32, head_dim=16)
    assert size == {"model.model_dim": 96, "model.num_layers": 3, "model.num_heads": 6}
    with pytest.raises(configs.ConfigError, match="not a multiple"):
        ladder((40,), head_dim=16)
    with pytest.raises(configs.ConfigError):
        widths(64, 16, 3)


def test_repeated_data():
    (cell,) = made(data_constrained((960,), (4,)))
    assert (cell.config.data.limit, cell.config.train.steps) == (960, 40)
    assert cell.axes == {"unique_tokens": 960, "epochs": 4}


@pytest.mark.parametrize(("name", "count"), [("lengths_tiny", 12), ("repeats_tiny", 9)])
def test_the_experiments_make_their_cells(name, count):
    sweep = design.load_sweep(str(ROOT / "experiments" / "sweeps" / f"{name}.py"))
    cells, notes = design.cells(sweep)
    assert (len(cells), notes) == (count, [])


def test_settings_may_swap_a_component():
    (lion,) = made(settings([{"optim": {"name": "lion", "schedule": {"name": "wsd"}}}]))
    assert lion.config.optim.name == "lion"


def test_a_file_is_read_with_its_argument_and_its_errors_are_its_own(tmp_path):
    path = sweep_file(tmp_path, 'seeds(int(arg or "2"))')
    loaded = design.load_sweep(f"{path}:3")
    assert loaded.name == "tiny-3"
    assert len(design.cells(loaded)[0]) == 3
    with pytest.raises(configs.ConfigError, match="ValueError"):
        design.load_sweep(f"{path}:many")
    path.write_text("get_config = 1")
    with pytest.raises(configs.ConfigError, match="no function get_sweep"):
        design.load_sweep(str(path))
    with pytest.raises(configs.ConfigError, match="no file"):
        design.load_sweep(str(tmp_path / "absent.py"))
