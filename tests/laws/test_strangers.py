"""Tables as strangers publish them: a right fit, or a message whose lines, typed, give one."""

import csv
import gzip
import json
import re
import shlex

import numpy as np
import pytest
from laws.law_data import TRUTH, surface

from scaling.laws import LawError, read_table, readers
from scaling.laws.arguments import parse
from scaling.laws.command import fitted, read


def grid():
    """(params, tokens, loss) of 48 runs, each column an array [48]; losses to 12 digits."""
    data = surface(budgets=6, sizes=8)
    params, tokens = np.round(data["params"]), np.round(data["tokens"])
    return params, tokens, planted(params, tokens)


def planted(params, tokens, shift=0.0):
    t = TRUTH
    return t["E"] + shift + t["A"] * params ** -t["alpha"] + t["B"] * tokens ** -t["beta"]


def write(path, **columns):
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def proposals(error):
    """The lines to type of a message, as a shell reads them."""
    lines = re.findall(r"^  (\S.*)$", str(error), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def follow(path, *flags, pick=0, most=5):
    """Fit, typing the proposal number `pick` of each message: (result, messages)."""
    words, messages = [f"--runs={path}", "--law=chinchilla", "--out=o", *flags], []
    for _ in range(most):
        try:
            return fitted(parse(words))[1], messages
        except LawError as error:
            messages.append(str(error))
        lines = proposals(messages[-1])
        assert lines, f"nothing to type in: {messages[-1]}"
        words += lines[min(pick, len(lines) - 1)]
    raise AssertionError(messages)


def assert_planted(result, points=48, tolerance=1e-3):
    assert result.points == points
    for name, value in TRUTH.items():
        assert result.parameters[name] == pytest.approx(value, rel=tolerance), name


def test_obvious_names_are_proposed_all_at_once(tmp_path):
    n, d, loss = grid()
    path = write(tmp_path / "t.csv", params_active_precise=n, D=d, final_loss=loss, note=["x"] * 48)
    result, messages = follow(path)
    assert_planted(result)
    assert len(messages) == 1
    assert messages[0].endswith(
        "write\n  --columns=params=params_active_precise,tokens=D,loss=final_loss"
    )


def test_the_header_of_a_public_table_of_routed_runs(tmp_path):
    """Clark et al.: six losses, two counts. The validation loss and the dense count are meant."""
    others = ("step", "loss_c4", "loss_lambada", "total_parameter_count", "flops_per_step")
    names = (*others, "loss_validation", "num_experts", "dense_parameter_count")
    path = write(tmp_path / "t.csv", **{name: [1.0] for name in names})
    with pytest.raises(LawError) as caught:
        fitted(parse([f"--runs={path}", "--law=routed", "--out=o"]))
    line = "--columns=params=dense_parameter_count,experts=num_experts,loss=loss_validation"
    assert proposals(caught.value) == [[line]]


def test_capitals_spaces_and_units_in_the_header(tmp_path):
    n, d, loss = grid()
    columns = {"Params (M)": n / 1e6, "Train Tokens (B)": d / 1e9, "Val. Loss": loss}
    path = write(tmp_path / "t.csv", **columns)
    result, messages = follow(path)
    assert_planted(result)
    assert "params=Params (M)*1e6,tokens=Train Tokens (B)*1e9,loss=Val. Loss" in messages[0]


def test_thousands_separators_and_suffixes(tmp_path):
    n, d, loss = grid()
    spelled = {"params": [f"{x:,.0f}" for x in n], "tokens": [f"{x / 1e9:.12f}B" for x in d]}
    path = write(tmp_path / "t.csv", **spelled, loss=loss)
    result, messages = follow(path)
    assert_planted(result)
    assert re.search(r"\n  --spelled   # reads [\d,]+ as \d+$", messages[0])


def test_losses_in_percent(tmp_path):
    n, d, loss = grid()
    path = write(tmp_path / "t.csv", N=n, tokens=d, loss=[f"{100 * x:.10f}%" for x in loss])
    result, messages = follow(path)
    assert_planted(result)
    assert len(messages) == 2


@pytest.mark.parametrize(("pick", "points"), [(0, 22), (1, 220), (2, 220)])
def test_learning_curves_are_not_taken_for_runs(tmp_path, pick, points):
    """220 rows of 22 runs: the inside of a run is worse than a shorter run, its end is right."""
    n, d, loss = (x[::2][:22] for x in grid())
    share = np.tile(np.arange(1, 11) / 10, 22)
    n, d, loss = (np.repeat(x, 10) for x in (n, d, loss))
    names = np.repeat([f"run-{i}" for i in range(22)], 10)
    order = np.random.default_rng(0).permutation(220)
    columns = {
        "params": n,
        "tokens": d * share,
        "loss": loss * (1.3 - 0.3 * share),
        "run_name": names,
    }
    path = write(tmp_path / "t.csv", **{k: v[order] for k, v in columns.items()})
    result, messages = follow(path, pick=pick)
    assert "220 rows are 22 runs, logged several times: column 'run_name' repeats" in messages[0]
    assert result.points == points
    assert len(set(result.problem.clusters)) == (220 if pick == 2 else 22)
    if pick == 0:
        assert_planted(result, 22)


@pytest.mark.parametrize("names", [("lr", "bs"), ("Learning Rate", "batch_size")])
def test_a_sweep_inside_is_noticed_and_its_best_taken(tmp_path, names):
    n, d, _ = (np.repeat(x, 6) for x in grid())
    lr, bs = np.tile([1e-4, 3e-4, 1e-3], 96), np.tile(np.repeat([64, 128], 3), 48)
    worse = 1 + 0.05 * np.log(lr / 3e-4) ** 2 + 0.02 * (bs == 64)
    tokens = np.round(d * (1 + 1e-4 * (bs == 64)))  # as whole batches make them
    columns = {"params": n, "tokens": tokens, "loss": planted(n, tokens) * worse}
    path = write(tmp_path / "t.csv", **columns, **{names[0]: lr, names[1]: bs})
    result, messages = follow(path)
    assert "288 rows are 48 points (params, tokens) at which" in messages[0]
    assert f"{names[0]} and {names[1]} were swept" in messages[0]
    assert proposals(messages[0])[0] == [f"--best_of={names[0]},{names[1]}"]
    assert_planted(result)
    assert len(result.excluded) == 240
    assert follow(path, pick=1)[0].points == 288


def test_words_under_the_name_of_a_recipe_are_experiments(tmp_path):
    """Porian's table has long and short under `warmup`: not settings of which to take the best."""
    n, d, loss = (np.repeat(x, 2) for x in grid())
    path = write(tmp_path / "t.csv", params=n, tokens=d, loss=loss, warmup=["long", "short"] * 48)
    assert len(follow(path)[0].excluded) == 0


def test_seeds_of_the_best_setting_stay_together(tmp_path):
    """A lucky seed of a bad setting is not the best; a setting that diverged is not either."""
    n, d, loss = (np.repeat(x, 6) for x in grid())
    lr, seed = np.tile(np.repeat([1e-4, 3e-4, 1e-2], 2), 48), np.tile([0, 1], 144)
    loss = loss * np.where(lr == 1e-4, np.where(seed == 0, 0.9, 1.5), 1.0)
    loss = np.where((lr == 1e-2) & (seed == 1), np.nan, loss * np.where(lr == 1e-2, 0.5, 1.0))
    path = write(tmp_path / "t.csv", params=n, tokens=d, loss=loss, lr=lr, seed=seed)
    result, _ = follow(path)
    assert_planted(result, 96)


def test_sizes_in_millions_without_a_word(tmp_path):
    n, d, loss = grid()
    path = write(tmp_path / "t.csv", N=n / 1e6, D=d, loss=loss)
    result, messages = follow(path)
    assert_planted(result)
    assert "so one is in another unit" in messages[1]
    assert proposals(messages[1])[0] == ["--columns=params=N*1e+06"]
    assert proposals(messages[1])[-1] == ["--columns=params=N*1"]
    alone = fitted(parse([f"--runs={path}", "--law=chinchilla", "--out=o",
                          "--columns=params=N*1,tokens=D"]))[1]  # fmt: skip
    assert alone.ranges["params"][1] == pytest.approx(n.max() / 1e6)


def test_both_counts_in_other_units_without_a_word(tmp_path):
    n, d, loss = grid()
    path = write(tmp_path / "t.csv", n_params=n / 1e6, num_tokens=d / 1e9, val_loss=loss)
    result, messages = follow(path)
    assert_planted(result)
    assert proposals(messages[1])[0] == ["--columns=params=n_params*1e+06,tokens=num_tokens*1e+09"]


def test_flops_tell_the_unit_of_a_mapped_column(tmp_path):
    n, d, loss = grid()
    path = write(tmp_path / "t.csv", n_params=n / 1e6, train_tokens=d, loss=loss, flops=6 * n * d)
    result, messages = follow(path)
    assert_planted(result)
    assert len(messages) == 2


def test_missing_values_are_left_out_and_counted(tmp_path):
    n, d, loss = grid()
    cells = [str(x) for x in loss]
    cells[3], cells[7], cells[11] = "N/A", "-", ""
    result, messages = follow(write(tmp_path / "t.csv", N=n, D=d, L=cells))
    assert_planted(result, 45)
    assert any("3 of 48 rows excluded" in w for w in result.warnings)
    assert len(messages) == 1


def test_a_cell_that_nothing_reads_is_left_out_by_the_line_given(tmp_path):
    n, d, loss = grid()
    cells = [str(x) for x in loss]
    cells[3] = "2.9 (diverged)"
    result, messages = follow(write(tmp_path / "t.csv", params=n, tokens=d, loss=cells))
    assert_planted(result, 47)
    assert proposals(messages[0]) == [["--exclude=loss==2.9 (diverged)"]]


def test_a_folder_of_tables_is_one_table_that_names_the_file(tmp_path):
    n, d, loss = grid()
    folder = tmp_path / "all"
    write(folder / "a.csv", N=n[:30], D=d[:30], loss=loss[:30])
    write(folder / "b.csv", N=n[30:], D=d[30:], loss=loss[30:], note=["x"] * 18)
    result, messages = follow(folder)
    assert_planted(result)
    assert "'file'" in messages[0]
    table = read(
        parse([f"--runs={folder}", "--law=chinchilla", "--out=o", *proposals(messages[0])[0]])
    )
    assert table.text["file"] == ["a"] * 30 + ["b"] * 18
    write(folder / "c.csv", N=[1e9], D=[1e10], loss=[2.0], file=["x"])
    with pytest.raises(LawError, match=r"c\.csv has a column 'file', which would name") as caught:
        fitted(parse([f"--runs={folder}", "--law=chinchilla", "--out=o"]))
    words = [[f"--runs={folder / name}"] for name in ("a.csv", "b.csv", "c.csv")]
    assert proposals(caught.value) == words


def test_a_folder_of_documents_one_a_run(tmp_path):
    """As a public collection of over-trained models comes: nested values, evaluations in a list."""
    folder = tmp_path / "models"
    folder.mkdir()
    for i, (n, d, loss) in enumerate(zip(*grid(), strict=True)):
        run = {
            "name": f"run-{i}",
            "params_url": "params.txt",
            "hyperparameters": {"params": n, "tokens": d, "flags": ["--fsdp"], "qk_norm": True},
            "results": [{"loss": loss, "tokens": 100.0}, {"loss": loss + 1, "tokens": 7.0}],
            "unread": {f"number_{j}": j for j in range(40)},
        }
        (folder / f"{i:02}.json").write_text(json.dumps(run, indent=4))
    result, messages = follow(folder)
    assert_planted(result)
    columns = "params=hyperparameters.params,tokens=hyperparameters.tokens,loss=results.0.loss"
    assert proposals(messages[0]) == [[f"--columns={columns}"]]
    assert "'number_30'" not in messages[0]
    assert "more)" in messages[0]
    table = read_table(folder)
    assert table.text["file"][:2] == ["00", "01"]
    assert not {"hyperparameters.flags", "hyperparameters.qk_norm"} & set(table.columns)
    (folder / "a.csv").write_text("params,tokens,loss\n1e6,1e7,3\n")
    assert len(read_table(folder)) == 1, "where there are tables, documents may be anything"
    (folder / "a.csv").unlink()
    (folder / "config.json").write_text("{}")
    with pytest.raises(LawError, match="holds no run"):
        read_table(folder)


def test_one_document_is_a_run_or_a_list_of_them(tmp_path):
    path = tmp_path / "runs.json"
    path.write_text(json.dumps([{"loss": 2.0}, {"loss": 3.0}], indent=1))
    assert read_table(path).columns["loss"].tolist() == [2.0, 3.0]
    path.write_text(json.dumps([{"loss": 2.0}]))
    assert read_table(path).columns["loss"].tolist() == [2.0]
    path.write_text('{\n "loss": 2.5\n}')
    assert read_table(path).columns["loss"].tolist() == [2.5]
    path.write_text('\n\n{\n "loss": 2.5\n}')
    assert read_table(path).columns["loss"].tolist() == [2.5]
    path.write_text('{\n "loss": 2.5,,\n}')
    with pytest.raises(LawError, match=r"runs\.json, line 2: not JSON"):
        read_table(path)
    path.write_text("[1,\n 2]")
    with pytest.raises(LawError, match="an object, or a list of objects, one a run"):
        read_table(path)


def test_a_document_that_memory_would_not_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LONGEST", 100)
    path = tmp_path / "runs.json"
    path.write_text(json.dumps([{"loss": 2.0}] * 20, indent=1))
    with pytest.raises(LawError, match=r"over 100 characters(?s:.*)one object a line"):
        read_table(path)


def test_a_packed_table_is_read_as_it_is(tmp_path):
    """As a public table of routed runs comes: evaluations of runs, packed."""
    n, d, loss = (np.repeat(x[::2][:22], 2) for x in grid())
    share = np.tile([0.5, 1.0], 22)
    names = np.repeat([f"run-{i}" for i in range(22)], 2)
    columns = {"N": n, "D": d * share, "L": loss * (1.2 - 0.2 * share), "hyper_id": names}
    plain = write(tmp_path / "t.csv", **columns).read_bytes()
    path = tmp_path / "all" / "curves.csv.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(plain))
    result, messages = follow(path)
    assert_planted(result, 22)
    assert "--last_of=hyper_id" in messages[1]
    assert read_table(path.parent).text["file"] == ["curves"] * 44
    path.write_bytes(gzip.compress(plain)[:-20])
    with pytest.raises(LawError, match=r"curves\.csv\.gz cannot be unpacked"):
        read_table(path)


def test_evaluations_of_runs_are_noticed_by_their_steps(tmp_path):
    """A law of size alone sees the rows of a run at one point; seeds of one name are runs still."""
    n = np.repeat(np.geomspace(1e7, 1e10, 12), 5)
    step, names = np.tile(np.arange(1, 6) * 1000, 12), np.repeat([f"r{i}" for i in range(12)], 5)
    loss = (1.7 + 40 * n**-0.2) * (1 + 100 / step)
    path = write(tmp_path / "t.csv", params=n, loss=loss, hyper_id=names, step=step)
    words = [f"--runs={path}", "--law=henighan_n", "--out=o"]
    with pytest.raises(LawError, match="60 rows are 12 runs, logged several times") as caught:
        fitted(parse(words))
    assert fitted(parse([*words, *proposals(caught.value)[0]]))[1].points == 12
    write(path, params=n, loss=loss, hyper_id=names, seed=step)
    assert fitted(parse(words))[1].points == 60


def test_rows_given_twice_are_said_to_count_twice(tmp_path):
    n, d, loss = (np.concatenate([x, x[:5]]) for x in grid())
    result, messages = follow(write(tmp_path / "t.csv", N=n, D=d, loss=loss))
    assert_planted(result, 53)
    assert len(messages) == 1
    assert any("5 rows repeat another row exactly" in w for w in result.warnings)


def test_everything_at_once(tmp_path):
    """Two experiments below each other, in billions, with a sweep inside and words for numbers."""
    n, d, _ = (np.tile(np.repeat(x, 3), 2) for x in grid())
    lr, data = np.tile([1e-4, 3e-4, 1e-3], 96), np.repeat(["web", "code"], 144)
    loss = planted(n, d, 0.5 * (data == "code")) * (1 + 0.05 * np.log(lr / 3e-4) ** 2)
    columns = {"Model Size (B)": n / 1e9, "Train Tokens": [f"{x:,.0f}" for x in d]}
    path = write(tmp_path / "t.csv", **columns, Final_Loss=loss, LR=lr, dataset=data)
    for name, shift in (("web", 0.0), ("code", 0.5)):
        result, messages = follow(path, f"--exclude=dataset!={name}")
        assert result.points == 48
        assert result.parameters["E"] == pytest.approx(TRUTH["E"] + shift, rel=1e-3)
        words = [word for message in messages for word in proposals(LawError(message))[0]]
        assert words[1:] == ["--spelled", "--best_of=LR"]


def test_the_sweep_of_a_public_table_is_noticed(tmp_path):
    """The columns of StepLaw's table, a hundred of its kind of rows."""
    n, d, _ = (np.repeat(x[:8], 12) for x in grid())
    lr, bs = np.tile(np.geomspace(2e-4, 5e-3, 4), 24), np.tile(np.repeat([64, 256, 736], 4), 8)
    loss = planted(n, d) * (1 + 0.02 * np.log(lr / lr[1]) ** 2 + 0.01 * (bs != 256))
    columns = {"h": 960, "lr": lr, "bs": bs, "loss": loss, "smooth loss": loss, "D": d, "N": n}
    path = write(tmp_path / "t.csv", **{k: np.broadcast_to(v, n.shape) for k, v in columns.items()})
    result, messages = follow(path)
    assert len(messages) == 2
    np.testing.assert_allclose(result.problem.target, planted(*(x[:8] for x in grid()[:2])))


def test_without_likely_names_the_columns_are_listed(tmp_path):
    path = write(tmp_path / "t.csv", foo=[1.0], bar=[2.0])
    with pytest.raises(LawError, match=r"--columns=params=COLUMN,tokens=COLUMN,loss=COLUMN"):
        fitted(parse([f"--runs={path}", "--law=chinchilla", "--out=o"]))


def test_errors_in_percent_want_a_factor(tmp_path):
    loss = np.linspace(2.0, 3.5, 20)
    error = 0.8 - 0.6 * np.exp(-0.5 * (4.5 - loss))
    path = write(tmp_path / "t.csv", loss=loss, err=100 * error)
    words = [f"--runs={path}", "--law=task_error", "--out=o", "--columns=error=err"]
    with pytest.raises(LawError, match="error is a fraction") as caught:
        fitted(parse(words))
    assert proposals(caught.value) == [["--columns=error=err*0.01"]]
    result = fitted(parse([*words, *proposals(caught.value)[0]]))[1]
    np.testing.assert_allclose(result.problem.target, error)
