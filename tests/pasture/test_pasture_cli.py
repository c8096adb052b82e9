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
    """Run the command line; gives its exit code, output and errors."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pasture", *map(str, words)])
        monkeypatch.delenv("GEOBIOMASS_TRACEBACK", raising=False)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code), said.out, said.err

    return call


@pytest.fixture
def csv(table, tmp_path):
    lengthen(table).to_csv(tmp_path / "train.csv", index=False)
    return tmp_path / "train.csv"


def test_train_then_predict(run, csv, tmp_path):
    root = ["--root", tmp_path]
    model, out = tmp_path / "model", tmp_path / "out.csv"
    code, said, _ = run("train", csv, model, *root, *QUICK, *SIZE, *CPU)
    assert code == 0
    assert "PastureRegressor(test_vit, single, 32 x 64, 1 epochs)" in said
    assert (tmp_path / "model.checkpoints" / "last.ckpt").is_file()
    code, said, _ = run("predict", model, csv, out, *root)
    assert (code, said) == (0, f"{out}: 12 photos\n")
    read = pd.read_csv(out).set_index("sample_id")["target"]
    grams = pasture.load(model).predict(pasture.read_photos(csv, tmp_path))
    assert len(read) == 60
    assert read["ID3__GDM_g"] == pytest.approx(grams.loc["ID3", "GDM_g"], rel=1e-12)


def test_validation_is_a_fraction_or_a_table(run, csv, table, tmp_path):
    rows = lengthen(table)
    first = rows["sample_id"].str.match(r"ID[0-3]_")
    rows[first].to_csv(tmp_path / "held.csv", index=False)
    rows[~first].to_csv(csv, index=False)
    words = ["--root", tmp_path, *QUICK, *SIZE, *CPU, "--stream", "dual"]
    held = ["--validation", tmp_path / "held.csv"]
    code, said, _ = run("train", csv, tmp_path / "one", *words, *held)
    assert code == 0
    assert "dual" in said
    code, said, _ = run("train", csv, tmp_path / "two", *words, "--validation", "0")
    assert code == 0
    assert "validation_weighted_r2" not in said


def test_bad_input_ends_with_one_sentence(run, csv, tmp_path):
    (tmp_path / "train" / "ID2.png").unlink()
    root = ["--root", tmp_path]
    for words, message in (
        (["train", csv, tmp_path / "m", *root, *QUICK], r"missing: .*ID2\.png"),
        (["train", tmp_path / "no.csv", tmp_path / "m"], r"No such file.*no\.csv"),
        (["train", csv, tmp_path / "m", *root, "--set", "epochs"], "name=value"),
        (["predict", tmp_path / "no", csv, tmp_path / "o", *root], "missing"),
    ):
        code, said, errors = run(*words)
        assert (code, said) == (2, "")
        assert re.search(message, errors)
        assert errors.startswith("pasture: ")
        assert errors.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_help_shows_an_example_of_each_command(run):
    for command in ("train", "predict"):
        code, said, _ = run(command, "--help")
        assert code == 0
        assert f"pasture {command}" in re.sub(r"\s+", " ", said)
