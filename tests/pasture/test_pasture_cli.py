import re
import sys

import pandas as pd
import pytest
from pasture_files import draw_photos, lengthen, one_thread

import pasture
from pasture import cli

QUICK = ["--recipe", "quick", "--epochs", "1", "--set", "backbone=test_vit"]
SIZE = ["--set", "height=32", "--set", "width=64", "--set", "progress=false"]
CPU = ["--set", "accelerator=cpu"]


@pytest.fixture(autouse=True)
def _threads():
    with one_thread():
        yield


@pytest.fixture
def table(tmp_path):
    return draw_photos(tmp_path)


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs the command line: exit code, output and errors."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pasture", *map(str, words)])
        monkeypatch.delenv("GEOBIOMASS_TRACEBACK", raising=False)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code), printed.out, printed.err

    return call


@pytest.fixture
def csv(table, tmp_path):
    lengthen(table).to_csv(tmp_path / "train.csv", index=False)
    return tmp_path / "train.csv"


def test_train_then_predict(run, csv, tmp_path):
    root = ["--root", tmp_path]
    model, out = tmp_path / "model", tmp_path / "out.csv"
    code, output, _ = run("train", csv, model, *root, *QUICK, *SIZE, *CPU)
    assert code == 0
    assert "PastureRegressor(test_vit, single, 32 x 64, 1 epochs)" in output
    assert (tmp_path / "model.checkpoints" / "last.ckpt").is_file()
    code, output, _ = run("predict", model, csv, out, *root)
    assert (code, output) == (0, f"{out}: 12 photos\n")
    read = pd.read_csv(out).set_index("sample_id")["target"]
    grams = pasture.load(model).predict(pasture.read_photos(csv, tmp_path))
    assert len(read) == 60
    assert read["ID3__GDM_g"] == pytest.approx(grams.loc["ID3", "GDM_g"], rel=1e-12)


@pytest.mark.slow
def test_validation_is_a_fraction_or_a_table(run, csv, table, tmp_path):
    rows = lengthen(table)
    first = rows["sample_id"].str.match(r"ID[0-3]_")
    rows[first].to_csv(tmp_path / "held.csv", index=False)
    rows[~first].to_csv(csv, index=False)
    words = ["--root", tmp_path, *QUICK, *SIZE, *CPU, "--stream", "dual"]
    held = ["--validation", tmp_path / "held.csv"]
    code, output, _ = run("train", csv, tmp_path / "one", *words, *held)
    assert code == 0
    assert "dual" in output
    code, output, _ = run("train", csv, tmp_path / "two", *words, "--validation", "0")
    assert code == 0
    assert "validation_weighted_r2" not in output


@pytest.mark.slow  # compiles the search for folds
def test_folds_train_adapt_predict(run, csv, table, tmp_path):
    """Run the four commands of the documentation."""
    root = ["--root", tmp_path]
    rows = lengthen(table)
    last = rows["sample_id"].str.match(r"ID(9|10|11)_")
    rows[~last].to_csv(csv, index=False)
    columns = ["sample_id", "image_path", "target_name"]
    rows[last][columns].to_csv(tmp_path / "test.csv", index=False)
    rows[last].to_csv(tmp_path / "truth.csv", index=False)

    code, output, _ = run("folds", csv, tmp_path / "folds.csv", *root, "--folds", "2")
    assert code == 0
    assert f"{tmp_path / 'folds.csv'}: 9 photos in 2 folds" in output
    folds = pd.read_csv(tmp_path / "folds.csv")
    assert list(folds) == ["photo", "fold", "group"]
    assert folds.groupby("group")["fold"].nunique().eq(1).all()

    model, words = tmp_path / "model", [*root, *QUICK, *SIZE, *CPU]
    both = ["--stream", "both", "--folds", tmp_path / "folds.csv"]
    code, output, _ = run("train", csv, model, *words, *both)
    assert code == 0
    assert "single and dual" in output
    assert len(list((tmp_path / "model.checkpoints").glob("*/fold-*/last.ckpt"))) == 4

    adapted = tmp_path / "adapted"
    few = ["--epochs", "2", "--last", "1", "--set", "progress=false"]
    words = [model, csv, tmp_path / "test.csv", adapted, *root, *few]
    code, output, _ = run("adapt", *words, "--blend", "0.6")
    assert code == 0
    assert "moved most" in output
    assert (tmp_path / "adapted.checkpoints" / "last.ckpt").is_file()

    out = tmp_path / "out.csv"
    code, _, _ = run("predict", adapted, tmp_path / "test.csv", out, *root)
    assert code == 0
    read = pd.read_csv(out)
    assert sorted(read["sample_id"]) == sorted(rows[last]["sample_id"])
    loaded = pasture.load(adapted)
    assert loaded.blend == 0.6
    test = pasture.read_photos(tmp_path / "test.csv", tmp_path)
    for words, grams in (
        ([], loaded.predict(test)),
        (["--no-flips"], loaded.predict(test, flips=False)),
        (["--blend", "0.1"], loaded.predict(test, blend=0.1)),
    ):
        wide = [adapted, tmp_path / "test.csv", out, *root, "--format", "wide"]
        assert run("predict", *wide, *words)[0] == 0
        read = pd.read_csv(out, index_col="photo")
        pd.testing.assert_frame_equal(read, grams, check_index_type=False)

    code, output, _ = run("evaluate", model, tmp_path / "truth.csv", *root)
    assert code == 0
    assert "weighted R2" in output


def test_folds_that_split_a_day_warn_in_one_line(run, csv, table, tmp_path):
    table["State"] = ["WA", "Vic"] * 6
    lengthen(table).to_csv(csv, index=False)
    words = ["folds", csv, tmp_path / "folds.csv", "--root", tmp_path, "--folds", "2"]
    code, _, errors = run(*words, "--seeds", "2000")
    assert code == 0
    warned = [line for line in errors.splitlines() if line.startswith("Warning: ")]
    assert len(warned) == 1
    assert "--no-virtual" in warned[0]
    code, _, errors = run(*words, "--no-virtual")
    assert code == 0
    assert "Warning" not in errors


@pytest.mark.slow
def test_folds_may_be_a_number(run, csv, tmp_path):
    words = ["--root", tmp_path, *QUICK, *SIZE, *CPU, "--folds", "2"]
    code, output, _ = run("train", csv, tmp_path / "model", *words)
    assert code == 0
    assert "single, all" in output
    (tmp_path / "folds.csv").write_text("photo,part\nID0,1\n")
    words[-1] = tmp_path / "folds.csv"
    code, _, errors = run("train", csv, tmp_path / "other", *words)
    assert code == 2
    assert "must have the columns photo and fold, got photo, part" in errors


def test_bad_input_ends_with_one_sentence(run, csv, tmp_path):
    (tmp_path / "train" / "ID2.png").unlink()
    root = ["--root", tmp_path]
    for words, message in (
        (["train", csv, tmp_path / "m", *root, *QUICK], r"missing: .*ID2\.png"),
        (["train", tmp_path / "no.csv", tmp_path / "m"], r"No such file.*no\.csv"),
        (["train", csv, tmp_path / "m", *root, "--set", "epochs"], "name=value"),
        (["predict", tmp_path / "no", csv, tmp_path / "o", *root], "missing"),
    ):
        code, output, errors = run(*words)
        assert (code, output) == (2, "")
        assert re.search(message, errors)
        assert errors.startswith("pasture: ")
        assert errors.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_help_shows_an_example_of_each_command(run):
    for command in ("folds", "train", "predict", "adapt", "evaluate", "demo"):
        code, output, _ = run(command, "--help")
        assert code == 0
        assert f"pasture {command}" in re.sub(r"\s+", " ", output)


def test_folders_of_photos_and_own_targets(run, table, tmp_path):
    """A sheet in kg/ha with semicolons: train without a recipe, predict a folder."""
    mine = table[["image_path"]].assign(
        Datum=table["Sampling_Date"], dry_kg_ha=table["Dry_Total_g"] * 47.6
    )
    mine.to_csv(tmp_path / "mine.csv", sep=";", decimal=",", index=False)
    words = [*SIZE, *CPU, "--epochs", 1, "--targets", "dry_kg_ha", "--root", tmp_path]
    code, _, errors = run("train", tmp_path / "mine.csv", tmp_path / "model", *words)
    assert code == 0, errors
    assert "recipe: quick" in errors
    out = tmp_path / "predicted.csv"
    for source, count in ((tmp_path / "train", 12), (tmp_path / "train/ID3.png", 1)):
        code, output, errors = run("predict", tmp_path / "model", source, out)
        assert code == 0, errors
        assert f"{count} photos" in output
        read = pd.read_csv(out, index_col="photo")
        assert list(read) == ["dry_kg_ha"]
        assert len(read) == count
    assert read["dry_kg_ha"].between(1, 1e5).all()


def test_an_unknown_setting_is_named_with_its_other_name(run, csv, tmp_path):
    words = ["train", csv, tmp_path / "m", "--root", tmp_path, *QUICK, "--set", "lr=1"]
    code, _, errors = run(*words)
    assert code == 2
    assert "'lr' is not a setting of a recipe; did you mean learning_rate?" in errors
    assert errors.count("\n") == 1
