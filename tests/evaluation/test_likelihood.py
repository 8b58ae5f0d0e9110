"""Likelihoods of texts: a model that knows nothing needs log V nats; files are gone on with; bytes add up."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from tests import tiny
from unmask.data.rows import Row
from unmask.errors import ConfigError, DataError, ResourceError
from unmask.evaluation.likelihood import (
    LikelihoodSettings,
    answers_of,
    curves_of,
    metrics_of,
    passages_of,
    score_passages,
)
from unmask.lm import DiffusionLM
from unmask.models.checkpoints import load_model, save_model
from unmask.registry import FAMILIES

TEXT = "The sea, the hill; the moon and the sun. Über den Bäumen: 月.\n" * 3
SETTINGS = LikelihoodSettings(samples=4, batch_size=8)


@pytest.fixture(scope="module")
def lms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DiffusionLM]:
    """A masked, a block-causal and an autoregressive model with one tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    tiny.write_checkpoint(folder / "masked")
    tiny.write_checkpoint(folder / "blocks", attention="block_causal", block_size=5)
    size = {"vocab_size": 264, "max_position_embeddings": 256, "eos_token_id": 1}
    (folder / "causal").mkdir()
    tiny.write_tokenizer(folder / "causal")
    (folder / "causal/config.json").write_text(json.dumps({**FAMILIES.get("qwen2").tiny_config, **size}))
    save_model(load_model(folder / "causal", from_scratch=True, seed=1), folder / "causal")
    return {name: unmask.load(folder / name, device="cpu") for name in ("masked", "blocks", "causal")}


@pytest.mark.parametrize("name", ["masked", "blocks", "causal"])
def test_a_model_that_knows_nothing_is_as_good_as_chance(lms: dict[str, DiffusionLM], name: str) -> None:
    lm = lms[name]
    head = lm.model.get_output_embeddings().weight
    kept = head.detach().clone()
    with torch.no_grad():
        head.zero_()
    try:
        passages = passages_of(lm, [TEXT], max_length=50)
        cases = score_passages(lm, passages, SETTINGS)
    finally:
        with torch.no_grad():
            head.copy_(kept)
    found, size = metrics_of(cases), len(TEXT.encode())
    right = {"nll": math.log(264), "perplexity": 264, "bits_per_byte": math.log2(264)}  # a token is a byte
    for figure, value in right.items():
        assert found[figure].mean == pytest.approx(value, rel=1e-5)
        assert found[figure].stderr == pytest.approx(0, abs=1e-4)
    assert found["bytes"].mean == size == found["tokens"].mean
    curves = {curve.title: curve for curve in curves_of(cases)}
    assert ("By noise" in curves) == (name != "causal")
    # by position it is exact only where nothing was drawn
    exact = ["By position"] if name == "causal" else ["By noise"]
    for value in (value for title in exact for *_, value in curves[title].points):
        assert value == pytest.approx(math.log(264), rel=1e-5)


def test_all_kinds_are_asked_the_same(lms: dict[str, DiffusionLM]) -> None:
    asked = [passages_of(lm, [TEXT, "", "short"], max_length=40) for lm in lms.values()]
    assert asked[0] == asked[1] == asked[2]
    assert sum(passage.bytes for passage in asked[0]) == len((TEXT + "short").encode())
    assert {len(passage.prompt) for passage in asked[0]} == {1}
    assert max(len(passage.target) for passage in asked[0]) == 39


def test_the_bound_is_below_the_log_likelihood_of_the_estimator(lms: dict[str, DiffusionLM]) -> None:
    """The same passage by the plain verb, within both errors."""
    lm = lms["masked"]
    passages = passages_of(lm, [TEXT], max_length=40)
    cases = score_passages(lm, passages, LikelihoodSettings(samples=64))
    pairs = [(passage.prompt, passage.target) for passage in passages]
    for case, other in zip(cases, lm.log_likelihoods(pairs, samples=64, seed=7), strict=True):
        assert abs(case["nats"] + other.mean) < 5 * math.hypot(case["stderr"], other.stderr)


def test_a_killed_evaluation_goes_on_and_equals_a_whole_one(lms: dict[str, DiffusionLM], tmp_path: Path) -> None:
    lm, file = lms["masked"], tmp_path / "cases.jsonl"
    passages = passages_of(lm, [TEXT], max_length=30)
    whole = score_passages(lm, passages, SETTINGS)
    score_passages(lm, passages, SETTINGS, cases_file=file)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    seen: list[int] = []
    again = score_passages(lm, passages, SETTINGS, cases_file=file, progress=lambda done, total: seen.append(done))
    assert seen[0] == 3 and seen[-1] == len(passages) == len(lines)
    for one, other in zip(whole, again, strict=True):
        assert one["key"] == other["key"] and one["nats"] == pytest.approx(other["nats"], rel=1e-5)
    with pytest.raises(ConfigError, match="cases of another model, other data or other settings"):
        score_passages(lm, passages, LikelihoodSettings(samples=5), cases_file=file)
    file.write_text("nonsense\n")
    with pytest.raises(ConfigError, match="cases.jsonl:1 is no case of an evaluation"):
        score_passages(lm, passages, SETTINGS, cases_file=file)


def test_of_one_sample_no_error_is_known(lms: dict[str, DiffusionLM], tmp_path: Path) -> None:
    lm, file = lms["masked"], tmp_path / "cases.jsonl"
    passages, once = passages_of(lm, [TEXT], max_length=30), LikelihoodSettings(samples=1)
    for cases in (
        score_passages(lm, passages, once, cases_file=file),
        score_passages(lm, passages, once, cases_file=file),
    ):
        found = metrics_of(cases)
        assert found["nll"].mean > 0 and {metric.stderr for metric in found.values()} == {None}
    lines = file.read_text("utf-8").removesuffix("\n").split("\n")
    assert len(lines) == len(passages) and all(json.loads(line)["stderr"] is None for line in lines)
    assert "NaN" not in file.read_text("utf-8")


def test_what_was_scored_survives_a_start_that_fails(
    lms: dict[str, DiffusionLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full, or a kill comes: only what was being written before may go."""
    lm, file = lms["masked"], tmp_path / "cases.jsonl"
    passages = passages_of(lm, [TEXT], max_length=30)
    score_passages(lm, passages, SETTINGS, cases_file=file)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"key": "tor')

    def full(self: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
        stream = opened(self, mode, *args, **more)
        if mode in ("w", "a"):
            stream.close()
            raise OSError(28, "No space left on device")
        return stream

    opened = Path.open
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ResourceError, match="cases.jsonl: No space left"):
        score_passages(lm, passages, SETTINGS, cases_file=file)
    assert file.read_bytes() == whole


def test_cases_of_another_version_are_refused(lms: dict[str, DiffusionLM], tmp_path: Path) -> None:
    """Their keys were made of other fingerprints."""
    lm, file = lms["masked"], tmp_path / "cases.jsonl"
    file.write_text('{"key": "0123456789abcdef01234567", "id": "0:0", "nats": 1.0}\n')
    with pytest.raises(ConfigError, match="or of an older version. Choose another folder, or --fresh"):
        score_passages(lm, passages_of(lm, ["abc"]), SETTINGS, cases_file=file)
    assert file.read_text().count("\n") == 1


def test_a_bound_beyond_all_numbers_is_reported() -> None:
    case = {"nats": 1e6, "stderr": 0.0, "tokens": 10, "bytes": 10}
    assert metrics_of([case])["perplexity"].mean == math.inf


def test_answers_are_scored_given_what_is_before_them(lms: dict[str, DiffusionLM]) -> None:
    lm = lms["masked"]
    talk = [{"role": "user", "content": "and?"}, {"role": "assistant", "content": "Grün."}]
    (passage,), notes = answers_of(lm, [Row("talks.jsonl:1", {"messages": talk})], "talks.jsonl")
    assert passage.prompt == lm.encode(talk[:1]) and lm.tokenizer.decode(passage.target) == "Grün."
    assert passage.bytes == 6 and notes == []


def test_conversations_that_do_not_fit_are_named_or_counted(lms: dict[str, DiffusionLM]) -> None:
    lm = lms["masked"]

    def row(place: int, asked: str, role: str = "user") -> Row:
        messages = [{"role": role, "content": asked}, {"role": "assistant", "content": "Yes."}]
        return Row(f"talks.jsonl:{place}", {"messages": messages})

    rows = [row(1, "Is it?"), row(2, "x" * 300), row(4, "y" * 500), row(5, "And now?")]
    told = r"talks\.jsonl:2 has 3\d\d tokens, answer included; this model reads at most 256\. .*\(2 such rows, 50%\)"
    with pytest.raises(DataError, match=told + ".* --skip_bad_rows true"):
        answers_of(lm, rows, "talks.jsonl")
    found, (note,) = answers_of(lm, rows, "talks.jsonl", skip_bad_rows=True)
    # cases of another model, which reads more, are of the same names
    assert [passage.id for passage in found] == ["0", "3"]
    assert note.startswith("talks.jsonl: 2 of 4 rows skipped: talks.jsonl:2 has 3") and "talks.jsonl:4 has 5" in note
    with pytest.raises(DataError, match="0 usable records: all 2 rows are bad"):
        answers_of(lm, rows[1:3], "talks.jsonl", skip_bad_rows=True)
    exactly = len(answers_of(lm, [row(1, "")], "talks.jsonl")[0][0].prompt) + len("Yes.")
    (fits,), _ = answers_of(lm, [row(1, "z" * (256 - exactly))], "talks.jsonl")
    assert len(fits.prompt) + len(fits.target) == 256


def test_mistakes_are_named(lms: dict[str, DiffusionLM]) -> None:
    with pytest.raises(ConfigError, match="max_length is 257; it must be from 2 to 256"):
        passages_of(lms["masked"], [TEXT], 257)
    with pytest.raises(DataError, match="the texts hold no tokens"):
        passages_of(lms["masked"], [""])
