"""Real autoregressive weights against what another implementation computed from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.stories import write_llama
from unmask.models.checkpoints import load_model
from unmask.models.tokenizers import load_tokenizer


@pytest.fixture(scope="module")
def stories(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("stories") / "llama", shared / "data" / "weights_stories260k")


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "data" / "weights_stories260k" / "golden_stories260k.json").read_text())


@torch.no_grad()
def test_a_real_model_says_what_it_said_elsewhere(stories: Path, golden: dict[str, Any]) -> None:
    model = load_model(stories)
    logits_V = model(torch.tensor([[1]])).logits[0, 0]
    top = golden["logits_after_bos_top10"]
    assert logits_V.topk(10).indices.tolist() == [token for token, _ in top]
    torch.testing.assert_close(logits_V.topk(10).values, torch.tensor([value for _, value in top]), atol=2e-4, rtol=0)
    greedy = torch.tensor([golden["greedy_ids_from_bos"]])
    assert model(greedy).logits[0, :-1].argmax(-1).tolist() == greedy[0, 1:].tolist()
    text = torch.tensor([golden["text_ids"]])
    nll = F.cross_entropy(model(text).logits[0, :-1], text[0, 1:])
    assert nll.item() == pytest.approx(golden["mean_nll_nats_per_token"], abs=1e-5)


def test_its_tokenizer_reads_and_writes_the_same(stories: Path, golden: dict[str, Any]) -> None:
    tokenizer = load_tokenizer(stories)
    assert tokenizer(golden["text"])["input_ids"] == golden["text_ids"]
    assert tokenizer.decode(golden["greedy_ids_from_bos"], skip_special_tokens=True) == golden["greedy_text"]
    assert tokenizer.mask_token_id is None


def test_a_tokenizer_without_a_template_gets_one_of_its_own_marks(stories: Path) -> None:
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes."}]
    text = load_tokenizer(stories).apply_chat_template(turns, tokenize=False)
    assert text == "<s>[INST] Hi. [/INST] Yes.</s>"
