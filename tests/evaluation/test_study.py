"""A study of few data: it goes on where it stopped, both runs begin alike, and crossings are where they were put."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests import tiny
from unmask.errors import ConfigError, DataError, ResourceError
from unmask.evaluation import study, study_page
from unmask.evaluation.study import run_study
from unmask.evaluation.study_options import StudyArguments
from unmask.evaluation.study_page import OBJECTIVES, crossing, has_risen

QUICK: dict[str, Any] = {
    "unique_tokens": [248],
    "num_train_epochs": 2,
    "points_per_doubling": 1,
    "vocab_size": 264,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_length": 32,
    "per_device_train_batch_size": 4,
    "warmup_steps": 1,
    "learning_rate": 1e-2,
    "samples": 4,
}


def asked(texts: Path, folder: Path, **changes: Any) -> StudyArguments:
    return StudyArguments(**{"dataset_args": f"{texts}[test:6]", "output_dir": str(folder), **QUICK, **changes})


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_texts(tmp_path_factory.mktemp("few") / "texts.jsonl")


@pytest.fixture(scope="module")
def whole(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run_study(asked(texts, folder), tell=lambda line: None)
    return folder


def points_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / study.POINTS).read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]


def test_an_interrupted_study_comes_to_the_same(
    whole: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, score, calls = asked(texts, tmp_path), study.score_passages, []

    def killed(*args: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:  # trained to the second point, not evaluated there
            raise KeyboardInterrupt
        return score(*args, **named)

    monkeypatch.setattr(study, "score_passages", killed)
    with pytest.raises(KeyboardInterrupt):
        run_study(chosen, tell=lambda line: None)
    # the last line was being written
    with (tmp_path / study.POINTS).open("a") as file:
        file.write('{"unique_tokens": 248, "obj')
    said: list[str] = []
    run_study(chosen, tell=said.append)
    assert len(points_of(whole)) == 4 and len(said) == 2
    assert points_of(tmp_path) == points_of(whole)
    run_study(chosen, tell=said.append)
    assert len(said) == 2 and len(calls) == 5


def test_more_points_are_made_where_the_runs_have_not_been(texts: Path, tmp_path: Path) -> None:
    run_study(asked(texts, tmp_path), tell=lambda line: None)
    before = points_of(tmp_path)
    run_study(asked(texts, tmp_path, num_train_epochs=3, points_per_doubling=4), tell=lambda line: None)
    grown = points_of(tmp_path)
    assert grown[:4] == before and [row["epochs"] for row in grown[4:]] == [3, 3]


def test_both_runs_begin_alike_and_are_measured_alike(whole: Path) -> None:
    causal, masked = (load_file(whole / "start" / name / "model.safetensors") for name in OBJECTIVES)
    assert causal.keys() == masked.keys() and all(causal[name].equal(masked[name]) for name in causal)
    points = points_of(whole)
    assert {(row["objective"], row["epochs"], row["updates"]) for row in points} == {
        (name, epochs, 2 * epochs) for name in OBJECTIVES for epochs in (1, 2)
    }
    assert len({row["tokens"] for row in points}) == 1
    for row in points:
        assert sum(row["nats"]) == pytest.approx(row["nll"] * row["tokens"], rel=1e-5)
        assert (row["stderr"] > 0) == (row["objective"] == "masked")
        assert row["nll"] < 1.2 * math.log(264)
    # every update of the autoregressive run computes the same
    exact = {row["epochs"]: row["flops"] for row in points if row["objective"] == "autoregressive"}
    assert exact[2] == pytest.approx(2 * exact[1])
    found = json.loads((whole / "results.json").read_text())
    assert found["sizes"][0]["best"].keys() == set(OBJECTIVES)
    assert "248 unique tokens" in (whole / "results.md").read_text()
    # two curves in each of two panels, and in the legend
    assert (whole / study.FIGURE).read_text().count("<polyline") == 6


def test_first_heads_begin_at_neighbours(whole: Path) -> None:
    """Head 0 looks at the token before and head 1 at the one behind, where nothing is hidden."""
    theirs = AutoModelForCausalLM.from_pretrained(whole / "start" / "autoregressive", attn_implementation="eager")
    ids_BL = torch.randint(3, 259, (64, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = theirs(ids_BL, attention_mask=torch.zeros(64, 1, 24, 24), output_attentions=True).attentions[0].mean(0)
    for head, offset in ((0, -1), (1, 1)):
        by_offset = {far: float(seen[head].diagonal(far).mean()) for far in range(-12, 13)}
        assert max(by_offset, key=lambda far: by_offset[far]) == offset


def test_another_study_is_refused(whole: Path, texts: Path) -> None:
    with pytest.raises(ConfigError, match="another study .learning_rate 0.01 -> 0.02"):
        run_study(asked(texts, whole, learning_rate=2e-2))


def test_text_must_be_held_out_and_long_enough(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds nothing out"):
        run_study(asked(texts, tmp_path / "a", dataset_args=str(texts)))
    with pytest.raises(DataError, match="unique_tokens asks for 32,260 rows of max_length 32"):
        run_study(asked(texts, tmp_path / "b", unique_tokens=[1_000_000]))
    assert not list(tmp_path.iterdir())


def test_first_weights_are_of_the_settings_that_study_json_names(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run_study(asked(texts, tmp_path, hidden_size=32, unique_tokens=[1_000_000]))
    assert not [place for place in tmp_path.iterdir() if place.is_dir()]
    # what a call that was killed has left is not used either
    trained, _ = study._texts(asked(texts, tmp_path))
    study._write_first_weights(asked(texts, tmp_path, hidden_size=32), tmp_path / ".start-killed" / "start", trained)
    run_study(asked(texts, tmp_path, num_train_epochs=1), tell=lambda line: None)
    noted = json.loads((tmp_path / study.STUDY).read_text())
    for name in OBJECTIVES:
        config = json.loads((tmp_path / "start" / name / "config.json").read_text())
        assert config["hidden_size"] == noted["hidden_size"] == 16


def test_a_folder_called_start_is_left_alone(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "mine").write_text("")
    with pytest.raises(ConfigError, match="start is not of a study. Use another output_dir"):
        run_study(asked(texts, tmp_path))
    assert (tmp_path / "start" / "mine").exists()


def test_tokens_are_no_texts(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"input_ids": [1, 2, 3]}\n' * 4)
    with pytest.raises(DataError, match="rows.jsonl holds tokens; a study makes its own"):
        run_study(asked(rows, tmp_path / "out", dataset_args=f"{rows}[test:1]"))


def is_refused(folder: Path) -> bool:
    """Whether another process may not hold the folder."""
    code = "import pathlib, sys; from unmask.training import lock; lock.hold(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0 or "is in use by another run" in done.stderr
    return done.returncode != 0


@pytest.mark.skipif(os.name != "posix", reason="needs the locks of POSIX")
def test_a_folder_is_one_study_s_while_it_lasts(texts: Path, tmp_path: Path) -> None:
    held: list[bool] = []
    # told after each run, which lets go of its own folder
    run_study(asked(texts, tmp_path, num_train_epochs=1), tell=lambda line: held.append(is_refused(tmp_path)))
    assert held == [True, True] and not is_refused(tmp_path)
    code = (
        "import pathlib, sys; from unmask.training import lock; lock.hold(pathlib.Path(sys.argv[1])); print(flush=True)"
    )
    holder = [sys.executable, "-c", f"{code}; sys.stdin.read()", str(tmp_path)]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        with pytest.raises(ResourceError, match="is in use by another run"):
            run_study(asked(texts, tmp_path, num_train_epochs=1), tell=lambda line: None)
        process.communicate()


def test_curves_that_do_not_cross_are_said_not_to() -> None:
    size = study_page.compared([row("autoregressive", 1, 2.0, 1), row("masked", 1, 3.0, 2)], 9)
    said = study_page.notes([size], 4)[0]
    assert "The curves do not cross at equal epochs. The bound stays above" in said and "At equal compute the" in said
    assert "was ended" not in said


def test_a_crossing_is_where_it_was_put() -> None:
    # halfway between 2 and 4 on a logarithmic axis
    assert crossing([1, 2, 4, 8], [2, 1, -1, -2]) == pytest.approx(2 * math.sqrt(2))
    # a quarter of the way: 8 ** (1 / 4)
    assert crossing([1, 8], [1, -3]) == pytest.approx(8**0.25)
    assert crossing([1, 2, 4, 8], [1, -1, 1, -1]) == pytest.approx(4 * math.sqrt(2))
    assert crossing([1, 2, 4], [2, 1, 0.5]) is None
    assert crossing([3, 6], [-1, -2]) == 3
    assert crossing([], []) is None


def row(objective: str, epochs: int, nll: float, flops: float, spread: float = 0.0) -> dict[str, Any]:
    nats = [50 * (nll - spread), 50 * (nll + spread)]
    return {
        "unique_tokens": 9,
        "objective": objective,
        "epochs": epochs,
        "nll": nll,
        "flops": flops,
        "tokens": 100,
        "nats": nats,
        "bits_per_byte": 1.0,
    }


def test_curves_are_compared_with_the_best_so_far() -> None:
    # the baseline is at its best after 4 epochs and gets worse; the bound falls by 1 whenever the epochs double
    exact = [row("autoregressive", epochs, nll, epochs) for epochs, nll in ((1, 4.0), (2, 3.0), (4, 2.5), (8, 3.5))]
    bound = [row("masked", 2**k, 6.5 - k, 2 * 2**k, spread=0.5) for k in range(6)]
    found = study_page.compared([*bound, *exact], 9)
    assert found["best"]["autoregressive"]["epochs"] == 4 and found["best"]["masked"]["nll"] == 1.5
    assert found["epochs"] == {"autoregressive": 8, "masked": 32}
    places = found["crossing"]
    # at 8 epochs 3.5 meets 3.5; 2.5 is reached at 16 epochs, which cost 32
    assert places["same_epochs"]["at"] == pytest.approx(8)
    assert places["best_epochs"]["at"] == pytest.approx(16)
    assert places["best_flops"]["at"] == pytest.approx(32)
    said = study_page.notes([found], 2)[0]
    assert "cross at epoch 8 (" in said and "so far from epoch 16 (11.3 to 22.6) on" in said
    assert "was ended at epoch 8, 2 times" in said
    # two rows whose gaps differ by a nat per token: a standard error of half a nat, half a doubling
    assert places["best_epochs"]["low"] == pytest.approx(16 / math.sqrt(2))
    assert places["best_epochs"]["high"] == pytest.approx(16 * math.sqrt(2))


def test_a_run_that_has_long_been_rising_is_over() -> None:
    falling = [row("autoregressive", epochs, 5 - epochs / 10, 1) for epochs in (1, 2, 4)]
    assert not has_risen(falling, 4) and not has_risen([], 4)
    risen = [*falling, row("autoregressive", 8, 5.0, 1)]
    assert not has_risen(risen, 4) and has_risen(risen, 2) and not has_risen(risen, 0)


def test_epochs_double() -> None:
    chosen = StudyArguments(**{**QUICK, "dataset_args": "a", "output_dir": "b", "num_train_epochs": 10})
    assert chosen.epochs() == [1, 2, 4, 8, 10]
    denser = StudyArguments(
        **{**QUICK, "dataset_args": "a", "output_dir": "b", "num_train_epochs": 8, "points_per_doubling": 2}
    )
    assert denser.epochs() == [1, 2, 3, 4, 6, 8]
