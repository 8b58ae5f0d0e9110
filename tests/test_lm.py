from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import write_checkpoint
from unmask.errors import ConfigError, ModelError, ResourceError
from unmask.generation.options import GenerationOptions
from unmask.lm import DiffusionLM, load
from unmask.models.adapters import LoraSettings, attach_lora, base_of, save_adapter
from unmask.models.folders import EXAMPLES
from unmask.objectives.estimators import log_likelihood

MASK, END = 0, 1  # of the tiny tokenizer
SETTINGS: dict[str, Any] = {"max_new_tokens": 8, "block_size": 4, "steps": 8, "early_stop": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("lm") / "model")


@pytest.fixture(scope="module")
def lm(folder: Path) -> DiffusionLM:
    return load(folder, device="cpu")


@pytest.fixture
def forced(lm: DiffusionLM) -> Any:
    """Make the model write one text at given positions, whatever it thinks."""
    handles = []

    def force(start: int, text: str, model: Any = lm.model) -> None:
        wanted = torch.tensor(lm.tokenizer(text)["input_ids"])

        def replace_logits(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            place = kwargs["logits_at"] % args[0].shape[1] - start
            logits = torch.zeros_like(output.logits)
            # the earlier the surer
            logits[torch.arange(len(place)), wanted[place]] = 12.0 - 0.3 * place
            return output._replace(logits=logits)

        handles.append(model.register_forward_hook(replace_logits, with_kwargs=True))

    yield force
    for handle in handles:
        handle.remove()


def test_text_ids_and_messages_one_or_several(lm: DiffusionLM) -> None:
    text = "Once upon"
    token_ids = lm.tokenizer(text)["input_ids"]
    messages = [{"role": "user", "content": "Hello"}]
    rendered = lm.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    chat_ids = lm.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    single = [lm.generate(prompt, **SETTINGS)[0].token_ids for prompt in (text, token_ids, messages, chat_ids)]
    assert single[0] == single[1] and single[2] == single[3] and single[0] != single[2]
    together = lm.generate([text, token_ids, messages], **SETTINGS)
    assert [out.token_ids for out in together] == [single[0], single[1], single[2]]
    assert lm.generate([], **SETTINGS) == []


def test_the_continuation_is_decoded(lm: DiffusionLM, forced: Any) -> None:
    forced(3, " caf\N{LATIN SMALL LETTER E WITH ACUTE}!!")
    out = lm.generate("One", **{**SETTINGS, "max_new_tokens": 7})[0]
    assert out.text == " caf\N{LATIN SMALL LETTER E WITH ACUTE}!" and out.finish_reason == "length"
    assert out.stats.emitted == 7 and out.trace is None


def test_an_end_token_ends_the_answer(lm: DiffusionLM, forced: Any) -> None:
    forced(3, "yes<|endoftext|>and more")
    out = lm.generate("One", max_new_tokens=8, block_size=8, steps=8)[0]
    assert out.text == "yes" and out.finish_reason == "stop" and END not in out.token_ids


def test_options_as_an_object_or_as_keywords(lm: DiffusionLM) -> None:
    options = GenerationOptions.of(**SETTINGS, seed=4, temperature=1.0)
    as_object = lm.generate("ab", options)[0]
    assert as_object == lm.generate("ab", **SETTINGS, seed=4, temperature=1.0)[0]
    assert as_object != lm.generate("ab", **SETTINGS, seed=5, temperature=1.0)[0]
    with pytest.raises(ConfigError, match="both options and seed are given"):
        lm.generate("ab", options, seed=3)


def test_infilling_keeps_the_other_text_byte_for_byte(lm: DiffusionLM, forced: Any) -> None:
    text = "  The [MASK][MASK][MASK] of\t<|mdm_mask|> \N{SNOWMAN}\n"
    forced(0, "..6789..........................")
    filled = lm.infill(text)[0]
    # Each of the first three blanks is at positions 6 to 8, the fourth at 13; the forced text is one byte per token.
    assert filled.text == "  The ... of\t. \N{SNOWMAN}\n"
    assert filled.finish_reason == "length" and filled.stats.emitted == 4


def test_a_blank_is_filled_with_its_space_where_the_mask_takes_it(folder: Path, tmp_path: Path, forced: Any) -> None:
    shutil.copytree(folder, tmp_path / "takes")
    file = tmp_path / "takes" / "tokenizer.json"
    facts = json.loads(file.read_text("utf-8"))
    (mask,) = (token for token in facts["added_tokens"] if token["content"] == "<|mdm_mask|>")
    mask["lstrip"] = True
    file.write_text(json.dumps(facts), "utf-8")
    takes = load(tmp_path / "takes", device="cpu")
    forced(0, "...Rome", takes.model)
    # one byte is one token: the first of two blanks stands where the space stood
    assert takes.infill("\nin [MASK][MASK], not out")[0].text == "\ninRo, not out"


def test_infilling_unforced(lm: DiffusionLM) -> None:
    out = lm.infill(["a [MASK] b", "[MASK]"], block_size=2)
    assert out[0].text.startswith("a ") and out[0].text.endswith(" b") and MASK not in out[0].token_ids
    by_ids = lm.infill([5, MASK, 7])[0]
    assert by_ids.token_ids[0] == 5 and by_ids.token_ids[2] == 7 and by_ids.token_ids[1] != MASK


def test_a_mask_in_a_prompt_is_text(lm: DiffusionLM) -> None:
    run = lm.stream("a<|mdm_mask|>b", **SETTINGS)
    assert run.canvas()[:3] == lm.tokenizer("a<|mdm_mask|>b")["input_ids"] and run.canvas()[3:] == [None] * 8
    run.run()
    assert run.canvas()[1] == MASK


def test_the_stream_ends_in_the_generation(lm: DiffusionLM) -> None:
    run = lm.stream(["ab", "c"], **SETTINGS)
    written: list[dict[int, int]] = [{}, {}]
    for commit in run:
        written[commit.row].update(zip(commit.positions, commit.token_ids, strict=True))
    for row, out in enumerate(run.generations()):
        assert [token for _, token in sorted(written[row].items())] == out.token_ids
    assert run.generations() == lm.generate(["ab", "c"], **SETTINGS)
    fills = list(lm.stream_infill("a[MASK]c"))
    assert [commit.positions for commit in fills] == [(1,)]


def test_dropout_is_off_while_generating_and_on_again_after(lm: DiffusionLM) -> None:
    seen = []
    handle = lm.model.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    lm.model.train()
    lm.generate("a", **SETTINGS)
    list(lm.stream("a", **SETTINGS))
    lm.log_likelihood("a", "b", samples=2)
    handle.remove()
    assert not any(seen) and lm.model.training
    lm.model.eval()


def test_log_likelihood_is_the_estimator_s(lm: DiffusionLM) -> None:
    whole, split = lm.tokenizer("ab cd")["input_ids"], 2
    expected = log_likelihood(
        lm.model, torch.tensor(whole[:split]), torch.tensor(whole[split:]), mask_token_id=MASK, samples=8, seed=3
    ).mean
    assert lm.log_likelihood("ab", " cd", samples=8, seed=3) == expected
    assert lm.log_likelihood("ab ", "cd", samples=8, seed=3) == expected  # the space counts as the target's
    assert lm.log_likelihood(whole[:split], whole[split:], samples=8, seed=3) == expected
    assert expected < 0
    assert lm.log_likelihood([{"role": "user", "content": "x"}], "cd", samples=2) < 0


def test_many_log_likelihoods_are_each_one_s(lm: DiffusionLM) -> None:
    pairs = [("ab", " cd"), ("ab", " c"), ("", "abcdefghij"), ([{"role": "user", "content": "x"}], "cd")]
    found = lm.log_likelihoods(pairs, samples=8, seed=3, batch_size=5)
    for (prompt, target), estimate in zip(pairs, found, strict=True):
        assert estimate.mean == pytest.approx(lm.log_likelihood(prompt, target, samples=8, seed=3), rel=1e-4)
    assert found[1].stderr == 0 < found[2].stderr  # " c" is two tokens: 3 masks
    assert lm.log_likelihoods(pairs[:1], samples=8, guidance_scale=1.0)[0].mean != found[0].mean
    with pytest.raises(ConfigError, match="pair 1 has 301 tokens.*reads at most 256. Shorten the prompt"):
        lm.log_likelihoods([("a", "b"), ("a", "b" * 300)])


def test_what_is_saved_loads_as_the_same(lm: DiffusionLM, tmp_path: Path) -> None:
    lm.save(tmp_path / "copy")
    again = load(tmp_path / "copy", device="cpu")
    assert again.generate("Once", **SETTINGS) == lm.generate("Once", **SETTINGS)
    assert again.family is lm.family
    assert again.tokenizer.chat_template == lm.tokenizer.chat_template


def test_an_adapter_on_top(folder: Path, tmp_path: Path) -> None:
    adapted = load(folder, device="cpu")
    attach_lora(adapted.model, LoraSettings(r=4, lora_dropout=0.0))
    with torch.no_grad():
        for name, weight in adapted.model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.3)
    save_adapter(adapted.model, tmp_path / "adapter")
    expected = adapted.generate("Once", **SETTINGS)
    assert load(folder, adapter=tmp_path / "adapter", device="cpu").generate("Once", **SETTINGS) == expected
    assert load(folder, device="cpu").generate("Once", **SETTINGS) != expected
    adapted.save(tmp_path / "saved")
    assert load(folder, adapter=tmp_path / "saved", device="cpu").generate("Once", **SETTINGS) == expected
    assert load(tmp_path / "saved", device="cpu").generate("Once", **SETTINGS) == expected  # it names its base


def test_the_model_of_the_package_stays_a_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXAMPLES, "base", (str(folder),))
    lm = load("example:base", device="cpu")
    attach_lora(lm.model, LoraSettings(r=4))
    lm.save(tmp_path / "adapter")
    assert base_of(tmp_path / "adapter") == "example:base"
    again = load(tmp_path / "adapter", device="cpu")
    assert again.model.config._name_or_path == "example:base"
    assert again.generate("Once", **SETTINGS) == lm.generate("Once", **SETTINGS)


@pytest.mark.parametrize(
    ("prompts", "settings", "phrase"),
    [
        ("a", {"temprature": 1}, 'Did you mean "temperature"?'),
        ("a", {"strategy": "confidant"}, 'Did you mean "confidence"?'),
        ([{"role": "user"}], {}, 'it needs "role" and "content"'),
        (3, {}, "prompts are a int"),
        ([3.5], {}, "a prompt is a float"),
        (
            "a" * 250,
            {"max_new_tokens": 8},
            "prompt 0 has 250 tokens, 258 with max_new_tokens; the model was made for 256",
        ),
        ([[1, 9999]], {}, "prompt 0 holds token id 9999"),
    ],
)
def test_wrong_prompts_and_options(lm: DiffusionLM, prompts: Any, settings: dict[str, Any], phrase: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lm.generate(prompts, **settings)
    assert phrase in str(caught.value)


def test_a_text_without_a_blank(lm: DiffusionLM) -> None:
    with pytest.raises(ConfigError, match=r"text 1 has no blank to fill in; write \[MASK\]"):
        lm.infill(["a [MASK]", "b"])


@pytest.mark.parametrize(
    ("settings", "error", "phrase"),
    [
        ({"dtype": "bflot16"}, ConfigError, 'Did you mean "bfloat16"?'),
        ({"device": "gpu"}, ConfigError, 'device "gpu" is unknown; use auto, cpu, cuda'),
        ({"quantization": "4bits"}, ConfigError, 'quantization "4bits" is not one of 4bit, 8bit. Did you mean "4bit"'),
    ],
)
def test_wrong_ways_to_load(folder: Path, settings: dict[str, Any], error: type[Exception], phrase: str) -> None:
    with pytest.raises(error) as caught:
        load(folder, **settings)
    assert phrase in str(caught.value)


def test_a_device_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="no CUDA device is available here"):
        load(folder, device="cuda")
    assert load(folder).model.device.type == "cpu"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no folder"):
        load(tmp_path / "nowhere")


def test_a_stop_string_ends_a_row_across_blocks(lm: DiffusionLM, forced: Any) -> None:
    forced(3, "yes.\nUser: and so on")
    settings = {"max_new_tokens": 20, "block_size": 4, "steps": 20}
    whole = lm.generate("One", **settings)[0]
    assert whole.text == "yes.\nUser: and so on" and whole.stats.forwards.denoise == 20
    out = lm.generate("One", **settings, stop=["zzz", "\nUser"])[0]
    assert (out.text, out.finish_reason, out.stats.emitted) == ("yes.", "stop", 4)
    assert out.token_ids == whole.token_ids[:4]
    # the stop is complete after nine tokens, in the third block
    assert out.stats.forwards.denoise == 9
    assert lm.generate("One", **settings, stop="and so on!")[0].text == whole.text
    assert lm.generate("One", **settings, stop="\nUser", early_stop=False)[0].stats.forwards.denoise == 20
    later = lm.generate("One", **settings, stop="s", min_new_tokens=4)[0]
    assert later.text == "yes.\nU" and later.stats.forwards.denoise == 7


def test_at_least_so_many_tokens_must_have_room(lm: DiffusionLM) -> None:
    with pytest.raises(ConfigError, match="min_new_tokens is 50, and max_new_tokens leaves prompt 0 room for 8 new"):
        lm.generate("One", max_new_tokens=8, min_new_tokens=50)
    with pytest.raises(ConfigError, match=r"max_length leaves prompt 1 room for 3 new tokens.*raise max_length"):
        lm.generate(["abc", "abcde"], max_length=8, min_new_tokens=4)
    assert lm.infill("a[MASK]b", min_new_tokens=500)


def test_an_unknown_token_to_keep_is_refused(lm: DiffusionLM) -> None:
    last = lm.model.facts.shape.vocab_size - 1
    lm.generate("One", max_new_tokens=2, steps=1, guidance_scale=1.0, guidance_keep=[last])
    with pytest.raises(ConfigError, match=f"guidance_keep has the token id 99999999.*knows ids 0 to {last}"):
        lm.generate("One", max_new_tokens=2, guidance_keep=[1, 99_999_999])


@pytest.mark.parametrize("device", ["mps", "xpu", "hpu", "cuda:99"])
def test_a_device_that_this_machine_lacks(tmp_path: Path, device: str) -> None:
    if device != "cuda:99" and torch.accelerator.is_available():
        pytest.skip("there is an accelerator here, perhaps this one")
    with pytest.raises(ResourceError, match=f'device "{device}"'):
        load(write_checkpoint(tmp_path), device=device)


def test_a_device_that_computes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='device "meta" computes nothing; use auto, cpu'):
        load(write_checkpoint(tmp_path), device="meta")


def test_a_stop_string_that_is_a_special_token(lm: DiffusionLM, forced: Any) -> None:
    forced(3, "yes<|start_header_id|>and more")
    assert lm.generate("One", max_new_tokens=8, block_size=8, steps=8)[0].text == "yesand "
    out = lm.generate("One", max_new_tokens=8, block_size=8, steps=8, stop="<|start_header_id|>")[0]
    assert (out.text, out.finish_reason) == ("yes", "stop")


def test_max_length_is_prompt_and_answer(lm: DiffusionLM) -> None:
    settings = {"block_size": 4, "steps": 8, "early_stop": False}
    outs = lm.generate(["abc", "abcde", "xyz"], max_length=8, **settings)
    assert [out.stats.emitted for out in outs] == [5, 3, 5]
    assert outs[1].token_ids == lm.generate("abcde", max_new_tokens=3, seed=1, **settings)[0].token_ids
    many = dict(lm.generate_many(["abc", "abcde", "xyz"], max_length=8, **settings))
    assert [many[number].token_ids for number in range(3)] == [out.token_ids for out in outs]
    run = lm.stream(["abc", "abcde", "xyz"], max_length=8, **settings)
    written: dict[int, int] = {}
    steps = []
    for commit in run:
        written[commit.row] = written.get(commit.row, 0) + len(commit.positions)
        steps.append(commit.step)
    assert written == {0: 5, 1: 3, 2: 5} and steps == sorted(steps) and None not in run.canvas(1)
    with pytest.raises(ConfigError, match="prompt 1 has 9 tokens; max_length is 9 for prompt and answer together"):
        lm.generate(["abc", "a" * 9], max_length=9)


def test_many_prompts_are_each_as_alone(lm: DiffusionLM) -> None:
    prompts = ["a" * (1 + 7 * number % 13) for number in range(20)]
    options = GenerationOptions.of(**SETTINGS, temperature=1.0, seed=3)
    found = list(lm.generate_many(iter(prompts), options, batch_size=3))
    assert sorted(number for number, _ in found) == list(range(20))
    for number, out in found:
        assert out.token_ids == lm.generate(prompts[number], options, seeds=[3 + number])[0].token_ids
    seeded = dict(lm.generate_many(prompts[:3], options, seeds=[9, 8, 7]))
    assert seeded[2].token_ids == lm.generate(prompts[2], options, seeds=[7])[0].token_ids


@pytest.mark.parametrize(
    ("prompts", "settings", "phrase"),
    [
        (["a"], {"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        (["a", "b"], {"seeds": [1]}, "1 seeds for 2 or more prompts"),
        (["a"], {"seeds": [1, 2]}, "more seeds than the 1 prompts"),
        (["a", "b" * 256], {}, "prompt 1 has 256 tokens, 384 with max_new_tokens"),
        (["a", 5], {}, "a prompt is a int"),
    ],
)
def test_many_wrong_prompts(lm: DiffusionLM, prompts: Any, settings: dict[str, Any], phrase: str) -> None:
    with pytest.raises(ConfigError, match=phrase):
        list(lm.generate_many(prompts, **settings))


def test_the_length_of_a_blank_is_chosen(lm: DiffusionLM) -> None:
    tried = [lm.infill(f"a [MASK:{length}] b", trace=True)[0] for length in range(1, 5)]
    scores = [
        sum(math.log(chance) for commit in out.trace.commits for chance in commit.confidences) / out.stats.emitted
        for out in tried
        if out.trace
    ]
    best = tried[max(range(4), key=scores.__getitem__)]
    out = lm.infill("a [MASK:1-4] b")[0]
    assert (out.text, out.token_ids, out.written) == (best.text, best.token_ids, best.written)
    assert out.stats.forwards.denoise == best.stats.forwards.denoise + sum(one.stats.forwards.denoise for one in tried)
    run = lm.stream_infill("a [MASK:1-4] b")
    assert run.canvas().count(None) == best.stats.emitted and run.run() == [out]


def test_a_template_gives_its_fields(lm: DiffusionLM, forced: Any) -> None:
    template = '{"name": "{name:4}", "x": {x:1-1}, "y": {}}'
    forced(0, "." * 10 + "Ada " + "." * 8 + "7" + "." * 20)
    out = lm.fill_template(template)[0]
    assert out.text == '{"name": "Ada ", "x": 7, "y": {}}'
    assert out.fields == {"name": "Ada", "x": "7"} and out.written == ("Ada ", "7")
    assert json.loads(out.text) == {"name": "Ada ", "x": 7, "y": {}}


def test_between_a_prefix_and_a_suffix(lm: DiffusionLM, forced: Any) -> None:
    prefix, suffix = "def f(x):\n    return [MASK] ", "\n# {a:1}"
    forced(0, "." * len(prefix) + "x + 1" + "." * 20)
    out = lm.infill(prefix=prefix, suffix=suffix, tokens=5)[0]
    assert out.text == f"{prefix}x + 1{suffix}" and out.fields == {"middle": "x + 1"}
    assert 1 <= len(lm.infill(prefix="a", suffix="b", tokens=(1, 3))[0].written[0]) <= 3


@pytest.mark.parametrize(
    ("call", "phrase"),
    [
        (lambda lm: lm.infill(), "there is nothing to fill in"),
        (lambda lm: lm.infill("a[MASK]", prefix="b"), "texts and a prefix are both given"),
        (lambda lm: lm.infill(prefix="a<|mdm_mask|>", suffix="b", tokens=1), r"holds the mask token <\|mdm_mask\|>"),
        (lambda lm: lm.infill(prefix="a", tokens=(3, 1)), "the smaller number first"),
        (lambda lm: lm.infill("a[MASK:9-2]"), "a blank of 9 to 2 tokens"),
        (lambda lm: lm.infill("a" * 260 + "[MASK]"), "a text has 261 tokens; the model was made for 256"),
        (lambda lm: lm.fill_template("no field"), "text 0 has no blank"),
    ],
)
def test_wrong_blanks(lm: DiffusionLM, call: Any, phrase: str) -> None:
    with pytest.raises(ConfigError, match=phrase):
        call(lm)
