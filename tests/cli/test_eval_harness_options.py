"""`unmask eval --tasks`: how its words are read."""

from __future__ import annotations

import pytest

from unmask.cli.eval_harness_options import read_arguments
from unmask.errors import ConfigError

KNOWN = ["--tasks", "gsm8k,arc", "--model_name_or_path", "DIR"]


def test_the_harness_strings_count_as_options_and_flags_win(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tasks", "cmmlu", "--model", "llada", "--apply_chat_template", "--output_path", "OUT", "--model_args"]
    words += ["pretrained=DIR,is_check_greedy=False,mc_num=1,max_length=1024,steps=256,block_size=64,cfg=0.0"]
    parsed = read_arguments([*words, "--gen_kwargs", "gen_length=8,steps=4,until=END", "--samples", "7"])
    assert parsed is not None
    found = {
        name: parsed[name] for name in ("tasks", "model", "model_name_or_path", "apply_chat_template", "max_length")
    }
    assert found == {
        "tasks": "cmmlu",
        "model": "llada",
        "model_name_or_path": "DIR",
        "apply_chat_template": True,
        "max_length": 1024,
    }
    # a flag before gen_kwargs before model_args
    assert (parsed["samples"], parsed["steps"], parsed["block_size"]) == (7, 4, 64)
    assert (parsed["max_new_tokens"], parsed["guidance_scale"], parsed["stop"]) == (8, 0.0, ("END",))
    assert parsed["is_check_greedy"] is False
    told = capsys.readouterr().err
    assert "note: mc_num is read as samples" in told and "note: cfg is read as guidance_scale" in told


def test_dllm_factory_s_string_is_read() -> None:
    text = "block_length=8,gen_length=256,steps=256,cfg_scale=0.0"
    parsed = read_arguments([*KNOWN, "--gen_kwargs", text, "--num_fewshot", "4", "--fewshot_as_multiturn"])
    assert parsed is not None and parsed["tasks"] == ["gsm8k", "arc"]
    assert (parsed["block_size"], parsed["max_new_tokens"], parsed["steps"]) == (8, 256, 256)
    assert (parsed["num_fewshot"], parsed["fewshot_as_multiturn"]) == (4, True)


def test_brackets_hold_what_is_between_their_commas_together() -> None:
    text = "pretrained=x[train:10,test:2],mc_num=1,suppress_tokens=[5;6],begin_suppress_tokens=[7,8]"
    parsed = read_arguments(["--tasks", "arc", "--model_args", text])
    assert parsed is not None and parsed["model_name_or_path"] == "x[train:10,test:2]"
    assert (parsed["samples"], parsed["suppress_tokens"], parsed["begin_suppress_tokens"]) == (1, [5, 6], [7, 8])
    odd = read_arguments(["--tasks", "arc", "--model_args", "pretrained=x[a,mc_num=2"])
    assert odd is not None and (odd["model_name_or_path"], odd["samples"]) == ("x[a", 2)


@pytest.mark.parametrize(
    ("text", "temperature"),
    [
        ("do_sample=False,temperature=0.7", 0.0),
        ("do_sample=True", 1.0),
        ('{"do_sample": true, "temperature": 0.2}', 0.2),
    ],
)
def test_whether_to_sample_is_a_temperature(text: str, temperature: float) -> None:
    parsed = read_arguments([*KNOWN, "--gen_kwargs", text])
    assert parsed is not None and parsed["temperature"] == temperature


MISTAKES = [
    (["--model_args", "pretrained=DIR,mcnum=1"], r'--model_args: unknown option "--mcnum"\. Did you mean "--samples"'),
    (["--model_args", "DIR"], '--model_args: "DIR" has no value'),
    (["--gen_kwargs", "{"], "--gen_kwargs is no JSON object"),
    (["--gen_kwargs", "steps=many"], '--gen_kwargs: --steps: "many" is not a whole number'),
]


@pytest.mark.parametrize(("words", "told"), MISTAKES)
def test_mistakes_in_a_string_are_told_with_its_name(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_arguments([*KNOWN, *words])
