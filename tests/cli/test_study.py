"""`unmask study`: its recipes are accepted as they stand, mistakes are one sentence, help needs no torch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unmask.cli.config import parse
from unmask.cli.main import main
from unmask.cli.options import OptionTable
from unmask.cli.recipes import recipes
from unmask.evaluation.study_options import StudyArguments

NAMES = ("data_constrained", "data_constrained_gpu")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_accepted_as_it_stands(name: str) -> None:
    parsed = parse(["--config", f"recipe:{name}"], OptionTable("study", "", (StudyArguments,)))
    assert parsed is not None and parsed.notes == ()
    chosen = parsed.build(StudyArguments)
    assert chosen.num_train_epochs >= 100 and all(chosen.updates_per_epoch(size) for size in chosen.unique_tokens)
    comment = recipes()[name].read_text().split("\ndataset_args")[0]
    assert f"unmask study --config recipes/{name}.yaml" in comment and "Expected hardware: " in comment


def test_a_mistake_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--output_dir", str(tmp_path / "out")]
    for words, said in (
        (place, "dataset_args is missing. Give --dataset_args"),
        (["--dataset_args", "a.txt"], "output_dir is missing"),
        ([*place, "--dataset_args", "a.txt", "--unique_token", "9"], 'Did you mean "--unique_tokens"?'),
        ([*place, "--dataset_args", "a.txt", "--unique_tokens", "9"], "unique_tokens has 9; an update alone takes"),
        ([*place, "--dataset_args", "a.txt", "--samples", "0"], "samples is 0; it must be at least 1"),
        ([*place, "--dataset_args", "a.txt", "--hidden_size", "20"], "multiple of twice num_attention_heads"),
        ([*place, "--dataset_args", "a.txt", "--learning_rate", "-1"], "learning_rate is -1.0; it must be a finite"),
        ([*place, "--dataset_args", "a.txt", "--weight_decay", "-0.1"], "weight_decay is -0.1; it must be a finite"),
        ([*place, "--dataset_args", "a.txt", "--seed", "-1"], "seed is -1; it must be from 0 to 4294967295"),
        ([*place, "--dataset_args", "a.txt", "--adam_beta2", "1"], "it must be above 0 and below 1. Example: 0.95"),
        (["--config", "recipe:data_constraint"], 'Did you mean "data_constrained"'),
        ([*place, "--dataset_args", str(tmp_path / "none.txt[test:2]")], "none.txt"),
    ):
        assert main(["study", *words]) == 2
        err = capsys.readouterr().err
        assert said in err and "Traceback" not in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


QUICK = (
    *("--unique_tokens", "248", "--num_train_epochs", "1", "--vocab_size", "264", "--max_length", "32"),
    *("--hidden_size", "16", "--intermediate_size", "24", "--num_hidden_layers", "1", "--num_attention_heads", "2"),
    *("--per_device_train_batch_size", "4", "--samples", "2"),
)


def test_two_plain_files_are_a_study_that_tells_its_points_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = Path("parts/train.txt")
    one.parent.mkdir()
    one.write_text("The sun is high, the sea is low.\n" * 60)
    Path("parts/test.txt").write_text("The moon is low, the sea is high.\n")
    for words, said in (
        (str(one), "or a folder with train.txt and test.txt"),
        (f"{one}[test:5%]", "A .txt is one row unless <|endoftext|> stands between its texts"),
    ):
        assert main(["study", "--dataset_args", words, "--output_dir", "out", *QUICK]) == 2
        assert said in capsys.readouterr().err and not Path("out").exists()
    assert main(["study", "--dataset_args", "parts", "--output_dir", "out", *QUICK]) == 0
    out, err = capsys.readouterr()
    assert "248 unique tokens" in out
    # no bar of another library stands between them
    assert [line.split(":")[0] for line in err.splitlines()] == [
        "248 tokens, autoregressive, epoch 1",
        "248 tokens, masked, epoch 1",
    ]


def test_help_names_the_recipe_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--unique_tokens" in shown and "--stop_rising" in shown
    assert re.search(r"recipe:data_constrained", shown)
