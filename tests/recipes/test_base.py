"""The base's beginnings: a tokenizer that loses nothing and sees one value as one token wherever it stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from heads import NEIGHBOURS, write_first_weights
from rows import Lesson, token_rows
from start import write_configuration, write_tokenizer

from unmask.data.chat import encode_conversation, prompt_ids
from unmask.models.checkpoints import load_model
from unmask.models.tokenizers import load_tokenizer


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_tokenizer(folder)
    write_configuration(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(start: Path):
    return load_tokenizer(start)


@pytest.mark.parametrize(
    "text", ["Clara is 31.", " two  spaces\n\n", "| Clara | 31 |\n| Ben | 280 |", "naïve 汉字 123456 ½", "a<b> c_d"]
)
def test_text_comes_back_as_it_was(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("value", ["Clara", "Oslo", "31", "280", "doctor"])
def test_a_value_is_the_same_token_in_a_cell_a_sentence_and_an_answer(tokenizer, value: str) -> None:
    (token,) = tokenizer(f" {value}")["input_ids"]
    assert token in tokenizer(f"| {value} |")["input_ids"]
    assert token in tokenizer(f"She says {value}.")["input_ids"]
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": value}]
    encoded = encode_conversation(messages, tokenizer)
    learned = [id for id, may in zip(*encoded, strict=True) if may]
    assert learned == [token, tokenizer.convert_tokens_to_ids("<|eot|>")]
    assert encoded.input_ids[: -len(learned)] == prompt_ids(messages[:1], tokenizer)


def test_a_blank_takes_the_space_before_it(tokenizer) -> None:
    mask = tokenizer.mask_token
    blank, word = (tokenizer(f"Oslo lies in {word}.")["input_ids"] for word in (mask, "Norway"))
    assert [id if id != tokenizer.mask_token_id else None for id in blank] == [
        id if id != tokenizer(" Norway")["input_ids"][0] else None for id in word
    ]


def test_the_configuration_opens(start: Path) -> None:
    model = load_model(start, from_scratch=True)
    assert 1_000_000 < model.num_parameters() < 6_000_000  # 12 MB in bfloat16
    assert model.head.weight is model.trunk.embed.weight


def test_the_first_layer_looks_at_neighbours(start: Path, tokenizer) -> None:
    write_first_weights(start, 0)
    trunk = load_model(start).trunk
    attention = trunk.layers[0].attention
    ids = torch.randint(10, len(tokenizer), (1, 40), generator=torch.Generator().manual_seed(1))
    seen: list[torch.Tensor] = []
    attention.o_proj.register_forward_hook(lambda _module, args, _out: seen.append(args[0]))
    for changed in range(2):
        trunk(ids)
        ids = ids.clone()
        ids[0, 20] += changed + 1
    # a head whose output at a position changes has seen what changed
    width = attention.head_width
    moved = (seen[0] - seen[1])[0].view(40, -1, width).norm(dim=-1)
    for head, offset in enumerate(NEIGHBOURS):
        assert moved[:, head].argmax() == 20 - offset


def test_rows_hide_values_or_keys_or_all_that_is_said(tokenizer) -> None:
    lesson = Lesson((2, 4), (1, 2), {"value": 0.4, "key": 0.2, "all": 0.4}, reasoned=0.5, foreign=0.2, plain=0.2)
    rows = list(token_rows(lesson, tokenizer, count=200, seed=0))
    assert rows == list(token_rows(lesson, tokenizer, count=200, seed=0))
    shares = [sum(row["may_noise"]) / len(row["input_ids"]) for row in rows]
    assert min(shares) > 0
    assert 50 < sum(share == 1.0 for share in shares) < 150  # plain texts, and readings hidden whole


def test_hidden_values_stand_in_the_table_too(tokenizer) -> None:
    for row in token_rows(Lesson((2, 4), (1, 2), {"value": 1.0}), tokenizer, count=100, seed=0):
        first = row["may_noise"].index(True)
        hidden = {id for id, may in zip(row["input_ids"], row["may_noise"], strict=True) if may}
        assert hidden <= set(row["input_ids"][:first])


@pytest.mark.long
def test_two_builds_give_the_same_weights(tmp_path: Path) -> None:
    program = Path(__file__).parents[2] / "recipes" / "base" / "build.py"
    digests = set()
    for name in ("one", "two"):
        command = [sys.executable, str(program), "--output_dir", str(tmp_path / name), "--steps", "3"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        digests.add(done.stdout.split()[-1])
    assert len(digests) == 1 and len(digests.pop()) == 64
    assert (tmp_path / "one" / "lesson-3" / "checkpoint-final" / "model.safetensors").is_file()
