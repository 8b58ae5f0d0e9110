"""The estimate of memory against what PyTorch's allocator and optimizers really took, and against a published table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import Trainer, TrainingArguments

from tests import tiny
from unmask.errors import ConfigError, ModelError, ResourceError
from unmask.models.adapters import LoraSettings, attach_lora, save_adapter
from unmask.models.checkpoints import load_model
from unmask.models.facts import Facts, read_facts
from unmask.training import memory
from unmask.training.arguments import Settings
from unmask.training.ingredients import gather, load_for_training
from unmask.training.memory import Question, estimate, estimates, state_bytes
from unmask.training.memory_question import estimate_of
from unmask.training.meter import Meter
from unmask.training.rehearsal import Pass, imagined, rehearse
from unmask.training.run import describe, train
from unmask.training.trained import Trained, make_trained
from unmask.types import AttentionSpec

ROWS, LENGTH, PREDICTED = 4, 64, 200
# of the worst moment; what PyTorch keeps for itself inside an operation is not seen
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    size = {"d_model": 64, "n_layers": 3, "n_heads": 4, "n_kv_heads": 4, "mlp_hidden_size": 160}
    return tiny.write_checkpoint(tmp_path_factory.mktemp("memory"), weights=False, **size)


@pytest.fixture(scope="module")
def facts(folder: Path) -> Facts:
    return read_facts(folder)


@contextmanager
def allocated() -> Iterator[list[int]]:
    """The allocator's own record: the most bytes held at once, and those held at the end."""
    found: list[int] = []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        yield found
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    found += [most, held]


def really(
    folder: Path, trained: Trained, what: Pass, recompute: str | None = None, *, eager: bool = False
) -> list[int]:
    model = load_model(folder, from_scratch=True)
    make_trained(model, trained)
    model.trunk.eager_attention = eager
    model.train()
    if recompute is not None:
        model.gradient_checkpointing_enable(strategy=recompute)
    tokens = torch.zeros(what.rows, what.length, dtype=torch.int64)
    at, targets = torch.arange(what.predicted), torch.zeros(what.predicted, dtype=torch.int64)
    attention = AttentionSpec(document_BL=torch.zeros_like(tokens), packed=False) if what.hidden else None
    with allocated() as found:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=what.bf16):
            loss = model(tokens, attention=attention, logits_at=at, targets=targets).nll.sum()
        loss.backward()
        del loss
    return found


@pytest.mark.parametrize(
    ("what", "lora", "recompute"),
    [
        (Pass(ROWS, LENGTH, PREDICTED), None, None),
        (Pass(ROWS, LENGTH, PREDICTED), None, "whole_layer"),
        (Pass(ROWS, LENGTH, PREDICTED, bf16=True), None, "one_in_two"),
        (Pass(ROWS, LENGTH, PREDICTED, bf16=True), LoraSettings(r=4), None),
        (Pass(ROWS, LENGTH, PREDICTED), LoraSettings(r=4), "whole_layer"),
        (Pass(ROWS, LENGTH, PREDICTED, hidden=True), None, None),
        (Pass(ROWS, LENGTH, PREDICTED), None, "fine_grained"),
        (Pass(ROWS, LENGTH, PREDICTED, bf16=True), None, "selective"),
        (Pass(ROWS, LENGTH, PREDICTED), LoraSettings(r=4), "selective"),
        (Pass(12, LENGTH, 700), None, None),  # more than the head computes at once
        (Pass(100, LENGTH, 6000), None, "whole_layer"),  # of which not all are imagined
    ],
    ids=[
        "plain",
        "recomputed",
        "bf16-every-second",
        "bf16-adapter",
        "adapter-recomputed",
        "hidden",
        "halves",
        "products",
        "adapter-products",
        "many-logits",
        "very-many-logits",
    ],
)
def test_a_rehearsal_takes_what_the_allocator_took(
    folder: Path, facts: Facts, what: Pass, lora: LoraSettings | None, recompute: str | None
) -> None:
    with imagined(facts, torch.float32, Trained(lora)) as model:
        if recompute is not None:
            model.gradient_checkpointing_enable(strategy=recompute)
        peaks = rehearse(model, what)
    most, gradients = really(folder, Trained(lora), what, recompute)
    assert peaks.together == pytest.approx(most, rel=TOLERANCE)
    assert peaks.gradients == gradients


def test_attention_that_is_written_out_keeps_its_probabilities(folder: Path, facts: Facts) -> None:
    what, told = Pass(ROWS, LENGTH, 8), {}
    for eager in (False, True):
        with imagined(facts, torch.float32, eager=eager) as model:
            told[eager] = rehearse(model, what).together
        assert told[eager] == pytest.approx(really(folder, Trained(), what, eager=eager)[0], rel=TOLERANCE)
    assert told[True] - told[False] > facts.shape.layers * ROWS * facts.shape.heads * LENGTH**2 * 4


@pytest.mark.parametrize(
    ("frozen", "what"),
    [
        ("head", Pass(ROWS, LENGTH, PREDICTED)),
        ("mlp", Pass(ROWS, LENGTH, PREDICTED)),
        ("embeddings,attention,mlp,norms", Pass(100, LENGTH, 6000)),  # the head alone learns
    ],
)
def test_frozen_parts_need_no_gradients(folder: Path, facts: Facts, frozen: str, what: Pass) -> None:
    trained = Trained(freeze=frozen)
    with imagined(facts, torch.float32, trained) as model:
        peaks = rehearse(model, what)
    most, gradients = really(folder, trained, what)
    assert peaks.together == pytest.approx(most, rel=TOLERANCE)
    assert peaks.gradients == gradients


def test_strategies_differ_in_memory_as_they_say(folder: Path, facts: Facts) -> None:
    """The fewer activations are kept, and the fewer are there at a time, the less; imagined and measured alike."""
    falling = (None, "one_in_four", "one_in_three", "one_in_two", "whole_layer", "fine_grained")
    what, deep = Pass(ROWS, LENGTH, 8), replace(facts, shape=replace(facts.shape, layers=12))
    told: dict[str | None, int] = {}
    for strategy in (*falling, "selective"):
        with imagined(deep, torch.float32) as model:
            if strategy is not None:
                model.gradient_checkpointing_enable(strategy=strategy)
            told[strategy] = rehearse(model, what).together
    assert all(told[more] > told[less] for more, less in pairwise(falling))
    measured = [really(folder, Trained(), what, name)[0] for name in (None, "selective", "whole_layer", "fine_grained")]
    assert told[None] > told["selective"] > told["whole_layer"]
    assert measured[0] > measured[1] > measured[2] > measured[3]


def test_only_predicted_positions_reach_the_head(facts: Facts) -> None:
    taken = {}
    for predicted in (8, ROWS * LENGTH):
        with imagined(facts, torch.float32) as model:
            taken[predicted] = rehearse(model, Pass(ROWS, LENGTH, predicted)).working
    logits = (ROWS * LENGTH - 8) * facts.shape.vocab_size * 4
    assert taken[ROWS * LENGTH] - taken[8] > logits


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "sgd", "adafactor", "adagrad", "rmsprop"])
@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)], ids=["whole", "adapter"])
def test_weights_gradients_and_optimizer_are_exact(
    folder: Path, facts: Facts, tmp_path: Path, optim: str, lora: LoraSettings | None
) -> None:
    model = load_model(folder, from_scratch=True)
    if lora is not None:
        attach_lora(model, lora)
    arguments = TrainingArguments(output_dir=str(tmp_path), optim=optim, use_cpu=True, report_to="none")
    kind, words = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = kind(weights, **words)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    # counters of steps, one number each, are not worth counting
    held = sum(value.numel() * value.element_size() for value in states if value.numel() > 1)
    told = estimate(Question(facts, trained=Trained(lora), rows=1, length=8, optim=optim))
    assert told.optimizer == held
    assert told.gradients == sum(weight.grad.numel() * 4 for weight in weights if weight.grad is not None)
    assert told.weights == sum(weight.numel() * 4 for weight in model.parameters())


@pytest.mark.parametrize(("rows", "is_kept"), [(120_000, False), (140_000, True), (530_000, False)])
def test_what_is_freed_counts_where_it_is_kept(tmp_path: Path, rows: int, is_kept: bool) -> None:
    """An embedding of 29, 34 and 129 MiB; with two forwards per update gradients are there beside activations."""
    size = {"d_model": 64, "n_heads": 4, "n_kv_heads": 4, "vocab_size": rows, "embedding_size": rows}
    facts = read_facts(tiny.write_checkpoint(tmp_path, weights=False, weight_tying=False, **size))
    once, twice = (estimate(Question(facts, rows=4, length=512, accumulation=forwards)).peak for forwards in (1, 2))
    assert (once == twice) is is_kept and once <= twice


def test_tied_weights_count_once(tmp_path: Path) -> None:
    told = []
    for tied in (False, True):
        place = tiny.write_checkpoint(tmp_path / str(tied), weights=False, weight_tying=tied)
        told.append(estimate(Question(read_facts(place), rows=1, length=8)))
    shape = read_facts(place).shape
    assert told[0].weights - told[1].weights == 4 * shape.vocab_size * shape.width


@pytest.mark.parametrize(("sharing", "expected"), [("zero1", 31.4), ("zero2", 16.6), ("zero3", 1.88)])
def test_zero_divides_as_its_paper_says(sharing: str, expected: float) -> None:
    """Figure 1 of arXiv 1910.02054: 7.5 billion weights, 64 devices, mixed precision with Adam, in GB."""
    count = 7_500_000_000
    counted = memory._Counted(
        weights=count, bytes=2 * count, trained=count, trained_bytes=4 * count, states=8 * count, layer=0, root=0
    )
    question = Question(facts=None, bf16=True)  # type: ignore[arg-type]
    weights, gradients, optimizer, _ = memory._DIVIDED[sharing](counted, question, 64)
    assert (weights + gradients + optimizer) / 1e9 == pytest.approx(expected, rel=0.005)


def test_every_way_of_dividing(facts: Facts) -> None:
    question = Question(facts, rows=2, length=32, bf16=True)
    told = {one.sharing: one for one in estimates(question, 4)}
    assert list(told) == ["ddp", "zero1", "zero2", "zero3", "fsdp"]
    alone = estimate(question)
    assert told["ddp"].peak >= alone.peak and told["ddp"].buffers == alone.gradients
    assert told["fsdp"].weights == alone.weights // 4
    assert [one.sharing for one in estimates(question, 1)] == ["none"]
    assert told["zero3"] == estimate(question, "zero3", 4)
    with pytest.raises(ConfigError, match='Did you mean "zero3"'):
        estimate(question, "zero33", 2)


def test_a_quantised_base_is_an_eighth_and_a_bit(facts: Facts) -> None:
    shape, adapter = facts.shape, Trained(LoraSettings(r=4))
    whole = estimate(Question(facts, torch.bfloat16, adapter, rows=1, length=8)).weights
    four, eight = (estimate(Question(facts, torch.bfloat16, adapter, bits, 1, 8)).weights for bits in (4, 8))
    linear = shape.layers * (4 * shape.width**2 + 3 * shape.width * shape.mlp_width)
    assert whole - four == pytest.approx(linear * (2 - 0.5625))
    assert whole - eight == linear


def test_fsdp_leaves_layers_in_few_bits_whole(facts: Facts) -> None:
    """What is divided halves with twice the processes; what is not can be told by what does not."""
    for bits in (None, 4):
        question = Question(facts, torch.bfloat16, Trained(LoraSettings(r=4)), bits, 1, 8, bf16=True)
        one, two, four = (estimate(question, "fsdp", ranks).weights for ranks in (1, 2, 4))
        whole = 2 * four - two
        assert whole == pytest.approx(2 * two - one, abs=2)
        linear = facts.shape.layers * (4 * 64 * 64 + 3 * 64 * 160)
        assert whole == pytest.approx(0 if bits is None else memory._QUANTISED[4] * linear, abs=2)


def test_eight_bit_states() -> None:
    assert state_bytes("adamw_bnb_8bit", torch.empty(1024, 1024), 4) == 2 * (1024**2 + 4 * 4096)
    assert state_bytes("adamw_8bit", torch.empty(64), 4) == 2 * 4 * 64
    assert state_bytes("lion_32bit", torch.empty(64), 4) == 4 * 64


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch", "sgd", "adafactor", "adagrad", "rmsprop"])
def test_what_a_step_makes_and_frees(tmp_path: Path, optim: str) -> None:
    weights = [torch.nn.Parameter(torch.zeros(256, 300)), torch.nn.Parameter(torch.zeros(100, 100))]
    arguments = TrainingArguments(output_dir=str(tmp_path), optim=optim, use_cpu=True, report_to="none")
    kind, words = Trainer.get_optimizer_cls_and_kwargs(arguments, None)
    optimizer = kind(weights, **words)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    with allocated() as found:
        optimizer.step()
    sizes = [weight.numel() * 4 for weight in weights]
    told = memory.step_bytes(optim, sizes, on_gpu=False)
    # at most what is told, up to single numbers and rows, and not far below
    assert found[0] <= told + 10_000 and (found[0] >= 0.45 * told)


@pytest.mark.parametrize("optim", ["adamw_8bit", "lion_8bit", "paged_adamw_32bit"])
def test_states_of_eight_bits_are_what_bitsandbytes_holds(
    settings: Callable[..., Settings], optim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run, since the library treats embeddings apart; and the estimate of that run."""
    pytest.importorskip("bitsandbytes")
    held: list[int] = []
    asked = settings(optim=optim, max_steps=1)

    def look(self: Meter, *_: Any, optimizer: Any, **__: Any) -> None:
        # the table of values that eight bits stand for is one for all
        states = [value for state in optimizer.state.values() for name, value in state.items() if "qmap" not in name]
        held.append(sum(value.nbytes for value in states if torch.is_tensor(value) and value.numel() > 1))

    monkeypatch.setattr(Meter, "on_optimizer_step", look)
    train(asked, verb="sft", console=Console(quiet=True))
    facts = read_facts(Path(str(asked.model.model_name_or_path)))
    told = estimate(Question(facts, rows=1, length=8, optim=optim))
    assert held == [pytest.approx(told.optimizer, rel=0.01)]


def test_without_bitsandbytes_eight_bits_are_refused(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("transformers.trainer_optimizer", "transformers.trainer"):
        monkeypatch.setattr(f"{module}.is_bitsandbytes_available", lambda: False, raising=False)
    with pytest.raises(ResourceError, match="optim adamw_8bit cannot be used: .*bitsandbytes.*Or use adamw_torch"):
        train(settings(optim="adamw_8bit"), verb="sft", console=Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_budget_of_tokens_decides_the_largest_forward(settings: Callable[..., Settings], checkpoint: Path) -> None:
    facts = read_facts(checkpoint)
    rows = estimate_of(settings(per_device_train_batch_size=32), "sft", facts)
    assert estimate_of(settings(tokens_per_batch=32 * 96), "sft", facts) == rows
    # two rows of nearly the longest that is allowed, or more of shorter ones
    nearly = estimate_of(settings(tokens_per_batch=2 * 96 - 1), "sft", facts)
    two = estimate_of(settings(per_device_train_batch_size=2), "sft", facts)
    assert nearly.activations == pytest.approx(two.activations, rel=0.02)


@pytest.mark.parametrize(
    ("more", "adapter"),
    [
        ({"freeze": "embeddings,head,mlp"}, None),
        ({"lora": True, "r": 4}, None),
        ({"lora": True, "r": 4, "freeze": "*.blocks.0.*"}, None),
        ({}, LoraSettings(r=3, target_modules="q_proj,v_proj")),
    ],
    ids=["frozen", "adapter", "frozen-adapter", "adapter-from-disk"],
)
def test_a_dry_run_counts_what_the_run_trains(
    settings: Callable[..., Settings], tmp_path: Path, more: dict[str, Any], adapter: LoraSettings | None
) -> None:
    if adapter is not None:
        made = load_model(Path(str(settings().model.model_name_or_path)))
        attach_lora(made, adapter)
        save_adapter(made, tmp_path / "adapter")
        more = {"adapter": str(tmp_path / "adapter")}
    asked = settings(**more)
    told = describe(asked, verb="sft")
    model = load_for_training(asked, gather(asked, "sft"))
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert told.trainable == trained
    assert told.memory["gradients"] == 4 * trained
    assert told.memory["optimizer"] == 8 * trained


@pytest.mark.parametrize(
    ("more", "kind", "words"),
    [
        ({"freeze": "nonsense"}, ConfigError, 'no weight has "nonsense"'),
        ({"freeze": "model"}, ConfigError, "nothing to train"),
        ({"adapter": "recipes"}, ModelError, "adapter"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(
    settings: Callable[..., Settings], more: dict[str, Any], kind: type, words: str
) -> None:
    for act in (describe, train):
        with pytest.raises(kind, match=words):
            act(settings(**more), verb="sft")


def test_a_dry_run_says_it(settings: Callable[..., Settings]) -> None:
    told = describe(settings(), verb="sft")
    assert "memory of one process, about: " in str(told)
    assert told.memory["weights"] == 4 * told.parameters
    less = describe(settings(gradient_checkpointing=True), verb="sft")
    assert less.memory["activations"] < told.memory["activations"]
