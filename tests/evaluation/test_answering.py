"""Answers are the model's, whoever asks with them and however often one has to begin again."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from tests import tiny
from unmask.errors import ConfigError
from unmask.evaluation.answering import Answerer, AnswerSettings
from unmask.evaluation.requests import Answers, Request
from unmask.lm import DiffusionLM

SETTINGS = AnswerSettings({"max_new_tokens": 8}, samples=4, batch_size=3)


@pytest.fixture(scope="module")
def lm(checkpoint: Path) -> DiffusionLM:
    return unmask.load(checkpoint, device="cpu", dtype="float32")


def answered(lm: DiffusionLM, requests: list[Request], settings: AnswerSettings = SETTINGS) -> list[Any]:
    answerer = Answerer(lm, settings, Answers(None))
    found = answerer.answer(requests)
    return [found[answerer.key(request)] for request in requests]


def test_texts_are_those_of_generate(lm: DiffusionLM) -> None:
    prompts = ["red blue", "cat", "a longer prompt than the others"]
    asked = [Request("generate", prompt, settings={"until": ["q", ""], "max_gen_toks": 4}) for prompt in prompts]
    expected = [lm.generate(prompt, max_new_tokens=8, steps=8, stop=("q",))[0].text for prompt in prompts]
    assert answered(lm, asked) == expected
    assert answered(lm, asked[::-1])[::-1] == expected


def test_chance_depends_on_the_request_alone(lm: DiffusionLM) -> None:
    settings = replace(SETTINGS, generation={"max_new_tokens": 8, "temperature": 2.0})
    asked = [Request("generate", "red", number=number) for number in range(4)]
    texts = answered(lm, asked, settings)
    assert len(set(texts)) == 4
    assert answered(lm, asked[2:], settings) == texts[2:]
    assert answered(lm, asked, replace(settings, seed=1)) != texts


def test_what_the_user_says_wins_over_the_task_and_the_task_over_defaults(lm: DiffusionLM) -> None:
    answerer = Answerer(lm, AnswerSettings({"block_size": 16}), Answers(None))
    asked = {"until": "\n", "max_gen_toks": 24, "do_sample": True, "temperature": 0.5, "top_p": 0.9, "penalty": 2}
    options = answerer.options(Request("generate", "x", settings=asked))
    assert (options.max_new_tokens, options.steps, options.block_size) == (24, 24, 16)
    assert (options.stop, options.temperature, options.top_p) == (("\n",), 0.5, 0.9)
    assert answerer.ignored == {"penalty"}
    greedy = answerer.options(Request("generate", "x", settings={"do_sample": False, "temperature": 0.7, "top_p": 0.9}))
    assert (greedy.temperature, greedy.top_p, greedy.max_new_tokens) == (0.0, None, 255)
    own = Answerer(lm, AnswerSettings({"max_new_tokens": 6, "temperature": 0.2}), Answers(None))
    mine = own.options(Request("generate", "x", settings=asked))
    assert (mine.max_new_tokens, mine.temperature) == (6, 0.2)
    with pytest.raises(ConfigError, match="samples is 0"):
        AnswerSettings(samples=0)
    with pytest.raises(ConfigError, match="steps is -1"):
        AnswerSettings({"steps": -1})


def test_a_target_is_encoded_with_its_prompt_and_takes_the_space_between(lm: DiffusionLM) -> None:
    for prompt, target in (("one ", "two"), ("one", " two"), ("", "two"), ("  ", "x")):
        prompt_ids, ids = lm.encode(prompt.rstrip()), lm.encode(prompt + target)
        (found,) = lm.log_likelihoods([(prompt_ids, ids[len(prompt_ids) :])], samples=4)
        assert answered(lm, [Request("score", prompt, target)])[0] == [pytest.approx(found.mean), False]


def test_greedy_is_what_decoding_the_surest_token_first_writes(lm: DiffusionLM) -> None:
    """All targets of two bytes are gone through by hand: the surest of the two is taken, then the other one."""
    prompt = lm.encode("red")
    mask = lm.model.facts.mask_token_id

    def logits(tail: list[int]) -> torch.Tensor:
        with torch.no_grad():
            found = lm.model(input_ids=torch.tensor([[*prompt, *tail]])).logits[0, -2:].float()
        found[:, mask] = -torch.inf
        return found.softmax(-1)

    first = logits([mask, mask])
    surest = int(first.max(-1).values.argmax())
    written = [mask, mask]
    written[surest] = int(first[surest].argmax())
    written[1 - surest] = int(logits(written)[1 - surest].argmax())
    answerer = Answerer(lm, SETTINGS, Answers(None))
    others = [list(pair) for pair in permutations([20, 21, 22], 2)]
    verdicts = list(answerer._greedy([(prompt, target) for target in [written, *others, written[:1]]]))
    assert verdicts[:-1] == [True, *(pair == written for pair in others)]
    assert not any(verdicts[1:-1])


def test_long_prompts_lose_their_beginning_and_are_counted(lm: DiffusionLM) -> None:
    answerer = Answerer(lm, replace(SETTINGS, max_length=20), Answers(None))
    long, short = Request("generate", "x" * 40 + "abc"), Request("generate", "x" * 9 + "abc")
    found = answerer.answer([long, short])
    assert answerer.shortened == {long.prompt}
    assert found[answerer.key(long)] == found[answerer.key(short)]
    prompt, target = answerer._pair(Request("score", "y" * 30, "zz"))
    assert (len(prompt), lm.tokenizer.decode(target)) == (18, "zz")


def test_a_prompt_stays_whole_and_its_answer_gives_way(lm: DiffusionLM) -> None:
    """The task asks for more than the model reads at all; what the model would say after the whole prompt comes out."""
    answerer = Answerer(lm, AnswerSettings(max_length=40), Answers(None))
    asked = [Request("generate", "red" * n, settings={"max_gen_toks": 40}) for n in (1, 8, 20)]
    found = [answerer.answer(asked)[answerer.key(request)] for request in asked]
    whole = [lm.generate("red" * n, max_new_tokens=40 - 3 * n, steps=40 - 3 * n)[0].text for n in (1, 8)]
    # a quarter of 40 tokens is the least
    cut = lm.generate(lm.encode("red" * 20)[-30:], max_new_tokens=10, steps=10)[0].text
    assert found == [*whole, cut]
    assert answerer.shortened == {asked[2].prompt}
    assert [answerer.curtailed[answerer.key(request)] for request in asked] == [(40, 37), (40, 16), (40, 10)]


def test_a_number_of_the_user_s_own_is_kept(lm: DiffusionLM) -> None:
    settings = AnswerSettings({"max_new_tokens": 36}, max_length=40)
    answerer = Answerer(lm, settings, Answers(None))
    request = Request("generate", "red" * 4, settings={"max_gen_toks": 8})
    assert list(answerer.answer([request]).values()) == [
        lm.generate(lm.encode("dred"), max_new_tokens=36, steps=36)[0].text
    ]
    assert answerer.shortened and not answerer.curtailed
    none = Answerer(lm, replace(settings, max_length=36), Answers(None))
    with pytest.raises(ConfigError, match="--max_new_tokens 36 leaves no room for a prompt: 36 tokens are read"):
        none.answer([request])


def test_what_is_shortened_is_counted_whoever_answered(lm: DiffusionLM, tmp_path: Path) -> None:
    """After a resume, and of what other processes answered: the same as in one go."""
    settings = replace(SETTINGS, max_length=20)
    asked = [
        Request("generate", "x" * 40 + "abc", settings={"strange": 1}),
        Request("generate", "short"),
        Request("score", "y" * 30, "zz"),
        Request("fill", "a\n" * 12, "b", {"tokens": [2, 2]}),
        Request("rolling", "z" * 40),
    ]
    whole = Answerer(lm, settings, Answers(tmp_path))
    whole.answer(asked)
    assert whole.shortened == {asked[0].prompt, asked[2].prompt, asked[3].prompt} and whole.ignored == {"strange"}
    resumed = Answerer(lm, settings, Answers(tmp_path))
    resumed.answer(asked)
    led = Answerer(lm, settings, Answers(None))
    led.answer(asked[::2])
    led.note(asked, whole.answers.by_key)
    assert not whole.curtailed
    for other in (resumed, led):
        assert (other.shortened, other.ignored) == (whole.shortened, whole.ignored)


def test_blanks_are_those_of_infill(lm: DiffusionLM) -> None:
    asked = [
        Request("fill", "one ", " three", {"tokens": [1, 3]}),
        Request("fill", "a\nb\n", "\nc", {"tokens": [2, 2]}),
    ]
    first = lm.infill(prefix="one ", suffix=" three", tokens=(1, 3), steps=3)[0].written[0]
    # six tokens hold a blank of two and four bytes: not the first line
    second = lm.infill(prefix="b\n", suffix="\nc", tokens=2, steps=2)[0].written[0]
    plain = AnswerSettings(batch_size=3)
    assert answered(lm, asked[:1], plain) == [first]
    assert answered(lm, asked[1:], replace(plain, max_length=6)) == [second]


@pytest.mark.parametrize("given", [{}, {"steps": 2}, {"temperature": 1.5}])
def test_blanks_filled_together_are_those_filled_alone(lm: DiffusionLM, given: dict[str, Any]) -> None:
    """Of other lengths, and with other numbers of tokens, each of which had as many steps alone."""
    blanks = [("one ", " three", [4, 4]), ("a much longer line ", "", [1, 3]), ("", "tail", [2, 2]), ("x", "y", [7, 7])]
    asked = [Request("fill", before, after, {"tokens": tokens}) for before, after, tokens in blanks]
    together = answered(lm, asked, AnswerSettings(given, batch_size=3))
    assert together == [answered(lm, [request], AnswerSettings(given))[0] for request in asked]
    assert len(set(together)) == 4


def test_whole_texts_are_scored_in_stretches(lm: DiffusionLM) -> None:
    answerer = Answerer(lm, replace(SETTINGS, max_length=9), Answers(None))
    ids, begin = lm.encode("abcdefghijkl"), lm.tokenizer.bos_token_id
    found = lm.log_likelihoods([([begin], ids[:8]), (ids[3:8], ids[8:])], samples=4)
    answer = answerer.answer([Request("rolling", "abcdefghijkl")])
    assert list(answer.values()) == [pytest.approx(sum(estimate.mean for estimate in found))]


def test_what_is_answered_is_not_asked_again(lm: DiffusionLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Request("score", "red", word, greedy=True) for word in ("cat", "dog")]
    asked += [Request("generate", word) for word in ("blue", "red")]
    whole = answered(lm, asked)
    told: list[tuple[str, int, int]] = []
    first = Answerer(lm, SETTINGS, Answers(tmp_path))
    first.answer(asked[::2])
    again = Answerer(lm, SETTINGS, Answers(tmp_path), lambda *step: told.append(step))
    found = again.answer(asked)
    assert [found[again.key(request)] for request in asked] == whole
    assert told == [("generate", 1, 2), ("generate", 2, 2), ("score", 1, 2), ("score", 2, 2)]
    monkeypatch.setattr(lm, "log_likelihoods", None)
    monkeypatch.setattr(lm, "generate_many", None)
    last = Answerer(lm, replace(SETTINGS, batch_size=1), Answers(tmp_path))
    assert [last.answer(asked)[last.key(request)] for request in asked] == whole
    other = Answerer(lm, replace(SETTINGS, samples=5), Answers(tmp_path))
    with pytest.raises(TypeError):
        other.answer(asked)


@pytest.mark.parametrize("changes", [{}, {"attention": "block_causal", "block_size": 4}])
def test_wherever_a_run_is_cut_it_ends_with_the_same_bytes(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Targets of some lengths after prompts of some lengths: rows of one forward, and what they share, are many's."""
    lm = unmask.load(tiny.write_checkpoint(tmp_path / "model", **changes), device="cpu")
    asked = [Request("score", "p" * (3 + n), "t" * (2 + m), greedy=n < 3) for n in range(5) for m in range(4)]
    asked += [Request("generate", "g" * n, settings={"temperature": 1.0, "do_sample": True}) for n in range(1, 14)]
    asked += [Request("rolling", "r" * 9)]
    settings = AnswerSettings({"max_new_tokens": 4}, samples=4, batch_size=3)
    whole = Answerer(lm, settings, Answers(tmp_path / "whole"))
    whole.answer(asked)
    lines = (tmp_path / "whole/answers-0.jsonl").read_bytes().splitlines(keepends=True)
    assert len({batch.run for batch in whole.batches(asked)}) == 1 and len(whole.batches(asked)) > 4
    for kept in (lines[:1], lines[1::2]):
        file = tmp_path / f"cut{len(kept)}/answers-0.jsonl"
        file.parent.mkdir()
        file.write_bytes(b"".join(kept) + lines[-1][:9])
        again = Answerer(lm, settings, Answers(file.parent))
        again.answer(asked[::-1])
        assert sorted(file.read_bytes().splitlines(keepends=True)) == sorted(lines)
    shares = [Answerer(lm, settings, Answers(None)) for _ in range(2)]
    found: dict[str, Any] = {}
    for number, one in enumerate(shares):
        found |= one.work(one.batches(asked)[number::2])
    assert found == whole.answers.by_key


def test_what_another_run_answered_is_in_no_batch(lm: DiffusionLM, tmp_path: Path) -> None:
    """A run of some requests, then one of all of them, which is killed and goes on: nothing is asked a third time."""
    asked = [Request("score", "red" * n, "cat") for n in range(1, 7)]
    first = Answerer(lm, SETTINGS, Answers(tmp_path))
    first.answer(asked[::2])
    more = Answerer(lm, SETTINGS, Answers(tmp_path))
    own = [batch for batch in more.batches(asked) if more.lacks(batch)]
    assert sorted(len(request.prompt) for batch in own for request in batch.requests) == [6, 12, 18]
    more.answer(asked)
    file = tmp_path / "answers-0.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:4]))
    again = Answerer(lm, SETTINGS, Answers(tmp_path))
    assert again.batches(asked)[: len(own)] == own
    again.answer(asked)
    assert sorted(file.read_bytes().splitlines(keepends=True)) == sorted(lines)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoregressive checkpoint of 32 positions."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("twin")
    tiny.write_tokenizer(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=264, max_position_embeddings=32, bos_token_id=3, eos_token_id=1, initializer_range=0.3, **sizes
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_autoregressive_likelihoods_are_those_of_the_harness_own_class(twin: Path) -> None:
    """Up to, at, and beyond what the model reads: the last target is not fed."""
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=str(twin), device="cpu", dtype="float32", batch_size=1)
    ours = unmask.load(twin, device="cpu", dtype="float32")
    text = "abcdefghijklmnopqrstuvwxyz" * 3
    rolled = [text[:size] for size in (5, 31, 32, 33, 64, 75)]
    pairs = [(text[:size], target) for size in (1, 28, 29, 30, 31, 70) for target in (" en", " other")]
    pairs += [("", "xyz"), ("", text[:31]), ("", text[:32]), ("a", text[:32])]
    expected = theirs.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (text,), 0) for text in rolled], disable_tqdm=True
    )
    expected += theirs.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs], disable_tqdm=True)
    asked = [Request("rolling", text) for text in rolled]
    asked += [Request("score", *pair, greedy=True) for pair in pairs]
    found = answered(ours, asked, AnswerSettings(batch_size=4))
    assert found[: len(rolled)] == pytest.approx(expected[: len(rolled)], rel=1e-5)
    for one, other in zip(found[len(rolled) :], expected[len(rolled) :], strict=True):
        assert one == [pytest.approx(other[0], rel=1e-5), other[1]]
