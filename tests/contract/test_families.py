"""Every model family that a user can name keeps the promises of a checkpoint kind and of a `Denoiser`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests.models.tiny import build, checkpoint, on_meta, tokens, write_config
from tests.tiny import write_tokenizer
from unmask.convert.merge import merge_adapter
from unmask.diffusion.blocks import block_ids
from unmask.lm import load
from unmask.models import fused_nll
from unmask.models.adapters import LoraSettings, attach_lora, load_adapter, save_adapter
from unmask.models.checkpoints import load_model, save_model
from unmask.models.facts import facts_of
from unmask.models.families import ModelFamily
from unmask.models.names import in_official_parts, split_place, to_official_name, to_our_name
from unmask.models.recompute import STRATEGIES
from unmask.models.shell import DiffusionModel
from unmask.objectives.masked import MaskedDiffusion
from unmask.registry import FAMILIES
from unmask.types import AttentionSpec, Batch, SampleKeys

# variant -> the keys by which configurations ask for it
VARIANTS = {"plain": (), "tied": ("weight_tying", "tie_word_embeddings"), "biased": ("include_qkv_bias",)}
KINDS = [
    (name, variant)
    for name in FAMILIES.names()
    for variant, keys in VARIANTS.items()
    if not keys or set(keys) & FAMILIES.get(name).reader.defaults.keys()
]


@pytest.fixture(params=FAMILIES.names(), scope="module")
def family(request: pytest.FixtureRequest) -> ModelFamily:
    return FAMILIES.get(request.param)


@pytest.fixture(scope="module")
def model(family: ModelFamily, tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    return build(tmp_path_factory.mktemp("model"), family)


def same(left: torch.Tensor, right: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(left, right, atol=atol, rtol=1e-5)


def gradients(model: DiffusionModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def same_gradients(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys() and left
    for name, gradient in left.items():
        same(gradient, right[name])


def test_the_record_is_complete(family: ModelFamily):
    assert FAMILIES.names().count(family.name) == 1
    assert family.tiny_config["model_type"] == family.model_type
    assert family.paper and family.chat_template and family.eos_token in family.stop_tokens
    facts = facts_of(family.tiny_config)
    assert facts.family is family and facts.mask_token_id == family.tiny_config.get("mask_token_id")
    # a model has a mask token or is autoregressive
    assert (family.mask_token is None) == (facts.mask_token_id is None) == (family.attention == "causal")


def test_the_key_map_is_a_bijection_over_modules_with_weights(family: ModelFamily):
    model = on_meta(dict(family.tiny_config))
    parts = [part for entry in model.state_dict().items() for part in in_official_parts(family.keys, *entry)]
    ours = [name for name, _ in parts]
    official = [to_official_name(family, name) for name in ours]
    assert len(set(ours)) == len(set(official)) == len(parts) and not any("*" in name for name in official)
    assert [to_our_name(family, name) for name in official] == ours
    assert {split_place(name)[0] for name in ours} == model.state_dict().keys()
    assert sum(part.numel() for _, part in parts) == sum(tensor.numel() for tensor in model.state_dict().values())
    assert family.keys.to_ours("model.no.such.module") is None and family.keys.to_official("trunk") is None


@pytest.mark.parametrize(("name", "variant"), KINDS)
@pytest.mark.parametrize("max_shard_size", ["5GB", "4KB"])
def test_saving_and_loading_keeps_every_bit(name: str, tmp_path: Path, variant: str, max_shard_size: str):
    family: ModelFamily = FAMILIES.get(name)
    changes = {key: True for key in VARIANTS[variant] if key in family.reader.defaults}
    model = build(tmp_path / "config", family, **changes)
    save_model(model, tmp_path / "saved", max_shard_size=max_shard_size)
    again = load_model(tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) == 1 or max_shard_size == "4KB"
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    assert torch.equal(again(tokens()).logits, model(tokens()).logits)
    assert (again.head.weight is again.trunk.embed.weight) == (variant == "tied")


@torch.no_grad()
def test_later_tokens_influence_earlier_logits_but_in_autoregressive_models(model):
    changed_BL = tokens()
    changed_BL[:, -1] = (changed_BL[:, -1] + 1) % 60
    moved_BL = (model(tokens()).logits - model(changed_BL).logits).abs().amax(-1)
    if model.family.attention == "causal":
        assert (moved_BL[:, :-1] == 0).all() and (moved_BL[:, -1] > 1e-3).all()
    else:
        assert (moved_BL > 1e-3).all()


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("filler", [0, 59])
def test_padding_changes_nothing_at_real_positions(model, side: str, filler: int):
    pads, length = 3, 12
    padding_BL = torch.full((2, pads), filler)
    parts = (padding_BL, tokens()) if side == "left" else (tokens(), padding_BL)
    first = pads if side == "left" else 0
    mask_BL = torch.zeros(2, pads + length, dtype=torch.long)
    mask_BL[:, first : first + length] = 1
    out = model(torch.cat(parts, 1), mask_BL).logits
    assert out.isfinite().all()
    same(out[:, first : first + length], model(tokens()).logits)


@torch.no_grad()
def test_rotary_positions_are_relative_and_given_ones_are_used(model):
    positions_BL = torch.arange(12).expand(2, 12)
    plain = model(tokens()).logits
    same(model(tokens(), positions=positions_BL).logits, plain)
    same(model(tokens(), positions=positions_BL + 7).logits, plain, atol=1e-4)
    assert (model(tokens(), positions=positions_BL * 2).logits - plain).abs().max() > 1e-3


@torch.no_grad()
def test_a_batch_row_equals_the_row_alone(model):
    together = model(tokens(4)).logits
    for row in range(4):
        same(together[row : row + 1], model(tokens(4)[row : row + 1]).logits)


@torch.no_grad()
def test_packed_documents_equal_documents_alone(model):
    document_BL = torch.tensor([[0] * 5 + [1] * 7])
    positions_BL = torch.tensor([[*range(5), *range(7)]])
    packed = model(tokens(1), attention=AttentionSpec(document_BL=document_BL), positions=positions_BL).logits
    same(packed[:, :5], model(tokens(1)[:, :5]).logits)
    same(packed[:, 5:], model(tokens(1)[:, 5:]).logits)


@torch.no_grad()
def test_a_cache_filled_in_one_pass_gives_the_same_logits(model):
    cache = model.trunk.new_cache(2, 12)
    same(model(tokens(), cache=cache).logits, model(tokens()).logits)
    assert (cache.start, cache.length) == (12, 12)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 4])
def test_overwriting_a_range_with_all_else_cached_equals_a_full_forward(model, rows: int):
    """Exact where the fed rows did not change; where they did, what the layers see elsewhere is by definition old."""
    cache = model.trunk.new_cache(2, 12)
    full = model(tokens(), cache=cache).logits
    cache.overwrite_from(5)
    same(model(tokens()[:, 5 : 5 + rows], cache=cache).logits, full[:, 5 : 5 + rows])
    assert (cache.start, cache.length) == (12, 12)


@torch.no_grad()
def test_overwriting_hides_padding_as_a_full_forward_does(model):
    mask_BL = torch.ones(2, 12, dtype=torch.long)
    mask_BL[0, :3] = mask_BL[1, 10:] = 0
    cache = model.trunk.new_cache(2, 12)
    full = model(tokens(), mask_BL, cache=cache).logits
    cache.overwrite_from(4)
    same(model(tokens()[:, 4:8], mask_BL, cache=cache).logits, full[:, 4:8])


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[4, 8], [1, 2, 3], [11]])
@pytest.mark.parametrize("document", [False, True])
def test_appending_under_a_causal_pattern_equals_the_full_causal_forward(model, cuts: list[int], document: bool):
    document_BL = torch.tensor([[0] * 12, [-1, -1, *[0] * 10]])
    spec = AttentionSpec("causal", document_BL=document_BL if document else None)
    full = model(tokens(), attention=spec).logits
    cache, pieces = model.trunk.new_cache(2, 16), []
    for piece in tokens().tensor_split(cuts, dim=1):
        seen = cache.length + piece.shape[1]
        part = AttentionSpec("causal", document_BL=document_BL[:, :seen] if document else None)
        pieces.append(model(piece, attention=part, cache=cache).logits)
    real_BL = (document_BL >= 0) | (not document)
    same(torch.cat(pieces, 1)[real_BL], full[real_BL])


@torch.no_grad()
@pytest.mark.parametrize("size", [5])
@pytest.mark.parametrize("document", [False, True])
def test_appending_block_after_block_equals_the_full_block_causal_forward(model, size: int, document: bool):
    block_BL = block_ids(torch.arange(12)[None], size)
    document_BL = torch.tensor([[0] * 12, [-1, -1, *[0] * 10]]) if document else None
    full = model(tokens(), attention=AttentionSpec("block_causal", document_BL, block_BL=block_BL)).logits
    spelled, plain = model.trunk.new_cache(2, 12), model.trunk.new_cache(2, 12)
    pieces, bare = [], []
    for piece in tokens().split(size, dim=1):
        seen = spelled.length + piece.shape[1]
        hidden = None if document_BL is None else document_BL[:, :seen]
        part = AttentionSpec("block_causal", hidden, block_BL=block_BL[:, :seen])
        pieces.append(model(piece, attention=part, cache=spelled).logits)
        bare.append(model(piece, attention=None if hidden is None else AttentionSpec(document_BL=hidden), cache=plain))
    real_BL = torch.ones(2, 12, dtype=torch.bool) if document_BL is None else document_BL >= 0
    same(torch.cat(pieces, 1)[real_BL], full[real_BL])
    if model.family.attention != "causal":
        # what is stored is what a block may see: nothing has to be hidden
        same(torch.cat([out.logits for out in bare], 1)[real_BL], full[real_BL])


@torch.no_grad()
@pytest.mark.parametrize("at", [[0], [3, 3, 1], list(range(24)), []])
def test_the_head_where_asked_is_a_slice_of_the_full_logits(model, at: list[int]):
    where = torch.tensor(at, dtype=torch.long)
    out = model(tokens(), logits_at=where)
    assert out.logits.shape == (len(at), facts_of(model.family.tiny_config).shape.vocab_size) and out.nll is None
    same(out.logits, model(tokens()).logits.flatten(0, 1)[where])
    # where few are asked for, the last layer may have been computed only there
    assert out.hidden is None or out.hidden.shape[:2] == (2, 12)


@pytest.mark.parametrize("tile", [(2**21, 1024), (300, 7), (1, 1)])
@pytest.mark.parametrize("autocast", [False, True])
def test_likelihoods_equal_the_cross_entropy_of_the_full_logits(
    model, monkeypatch, tile: tuple[int, int], autocast: bool
):
    monkeypatch.setattr(fused_nll, "TILE_CPU", tile)
    where = torch.tensor([1, 23, 4, 4, *range(10, 20)])
    wanted = tokens(1, len(where), seed=5)[0]
    weight = torch.linspace(0.5, 2, len(where))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = model(tokens(), logits_at=where, targets=wanted)
        full = model(tokens()).logits.flatten(0, 1)[where]
    nll = F.cross_entropy(full.float(), wanted, reduction="none")
    assert out.logits is None and out.nll.dtype == torch.float32
    if not autocast:
        same(out.nll, nll)
        same_gradients(gradients(model, (out.nll * weight).sum()), gradients(model, (nll * weight).sum()))
        return
    # bfloat16 rounds sums of different lengths differently: as close to the full head as its own eight bits
    torch.testing.assert_close(out.nll, nll, atol=0.05, rtol=0.02)
    left, right = gradients(model, (out.nll * weight).sum()), gradients(model, (nll * weight).sum())
    for name, gradient in left.items():
        assert F.cosine_similarity(gradient.flatten(), right[name].flatten(), dim=0) > 0.999, name


@pytest.mark.parametrize("tile", [(2**21, 1024), (300, 1)])
def test_nothing_masked_is_a_loss_of_zero(model, monkeypatch, tile: tuple[int, int]):
    monkeypatch.setattr(fused_nll, "TILE_CPU", tile)
    nothing = torch.zeros(0, dtype=torch.long)
    out = model(tokens(), logits_at=nothing, targets=nothing)
    assert out.nll.shape == (0,) and out.nll.sum() == 0
    found = gradients(model, out.nll.sum())
    assert all((gradient == 0).all() for gradient in found.values())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bidirectional", "causal"])
def test_eager_attention_equals_the_fused_kernel(model, kind: str):
    spec = AttentionSpec(kind, document_BL=torch.tensor([[0] * 5 + [1] * 7, [-1] * 3 + [2] * 9]))
    fused = [model(tokens()).logits, model(tokens(), attention=spec).logits]
    model.trunk.eager_attention = True
    eager = [model(tokens()).logits, model(tokens(), attention=spec).logits]
    model.trunk.eager_attention = False
    for left, right in zip(fused, eager, strict=True):
        same(left, right)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_recomputed_activations_give_equal_gradients(model, strategy: str):
    model.train()
    plain = gradients(model, model(tokens()).logits.square().sum())
    model.gradient_checkpointing_enable({"use_reentrant": False}, strategy=strategy)
    recomputed = gradients(model, model(tokens()).logits.square().sum())
    model.gradient_checkpointing_disable()
    model.eval()
    same_gradients(plain, recomputed)


def test_recomputation_runs_the_layers_again(model):
    calls: list[int] = []
    handles = [layer.attention.register_forward_pre_hook(lambda *_: calls.append(1)) for layer in model.trunk.layers]
    model.train()
    model.gradient_checkpointing_enable()
    model(tokens()).logits.sum().backward()
    model.gradient_checkpointing_disable()
    model.eval()
    for handle in handles:
        handle.remove()
    model.zero_grad()
    assert len(calls) == 2 * len(model.trunk.layers)


def test_one_step_of_masked_training_moves_every_kind_of_weight_and_lowers_the_loss(family, tmp_path: Path):
    if family.mask_token is None:
        pytest.skip("an autoregressive model has no mask token")
    model, x0_BL = build(tmp_path, family).train(), tokens(6, 16)
    rows = torch.arange(6)
    batch = Batch(
        x0_BL=x0_BL,
        may_noise_BL=torch.ones_like(x0_BL, dtype=torch.bool),
        sample_BL=rows[:, None].expand(6, 16).contiguous(),
        keys=SampleKeys(rows, rows, torch.zeros_like(rows)),
    )
    objective = MaskedDiffusion(mask_token_id=model.mask_token_id)
    noise = objective.noise(batch)
    losses, moved = [], set()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(2):
        loss = objective(model, batch, noise).loss / objective.count(batch)
        optimizer.zero_grad()
        loss.backward()
        moved |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
        losses.append(loss.item())
    assert moved == dict(model.named_parameters()).keys()
    assert losses[1] < losses[0]


def with_words(folder: Path, family: ModelFamily) -> Path:
    """A saved model and a tokenizer that fits it."""
    rows = {"vocab_size": 264, "eos_token_id": 1, "pad_token_id": 1}
    if family.mask_token is not None:
        rows["mask_token_id"] = 0
    if "embedding_size" in family.reader.defaults:
        rows["embedding_size"] = 264
    save_model(build(folder, family, **rows), folder)
    write_tokenizer(folder)
    return folder


def test_greedy_confidence_writes_with_every_model_that_has_a_mask(family, tmp_path: Path):
    if family.mask_token is None:
        pytest.skip("an autoregressive model has no mask token")
    lm = load(with_words(tmp_path, family), device="cpu")
    asked = {"max_new_tokens": 10, "block_size": 4, "steps": 12, "suppress_tokens": [1, 2], "trace": True}
    prompts = ["red", "a longer one", [7, 8]]
    outs = lm.generate(prompts, **asked)
    for prompt, out in zip(prompts, outs, strict=True):
        assert len(out.token_ids) == 10 and not {0, 1, 2} & set(out.token_ids)
        (alone,) = lm.generate([prompt], **asked)
        assert alone.token_ids == out.token_ids
        # block after block: no commit before those of all earlier blocks
        given = len(out.trace.token_ids) - 10
        first = given // 4 * 4 if family.attention == "block_causal" else given
        blocks = [{(p - first) // 4 for p in commit.positions} for commit in out.trace.commits]
        assert [max(block) for block in blocks] == sorted(min(block) for block in blocks)
    (filled,) = lm.infill("a[MASK]c[MASK]")
    assert filled.text.startswith("a") and "[MASK]" not in filled.text


def test_lora_attaches_to_every_linear_layer_but_the_head(family, tmp_path: Path):
    folder = checkpoint(tmp_path / "base", family)
    base, model = load_model(folder), load_model(folder)
    linear = {path for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)} - {"head"}
    attach_lora(model, LoraSettings(r=2))
    adapted = {path.removesuffix(".lora_A") for path, _ in model.named_modules() if path.endswith(".lora_A")}
    assert adapted == linear
    assert all("lora_" in name for name, p in model.named_parameters() if p.requires_grad)
    assert torch.equal(model(tokens()).logits, base(tokens()).logits)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    save_adapter(model, tmp_path / "adapter")
    load_adapter(base, tmp_path / "adapter")
    assert torch.equal(model(tokens()).logits, base(tokens()).logits)


def targets(family: ModelFamily) -> str:
    """Everything that takes an adapter."""
    return "all-linear,experts" if any("[{}]" in ours for _, ours in family.keys.pairs) else "all-linear"


def test_an_adapter_learns_while_its_base_stays(family, tmp_path: Path):
    model = load_model(checkpoint(tmp_path, family))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    attach_lora(model, LoraSettings(r=2, lora_dropout=0.0, target_modules=targets(family)))
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer, losses = torch.optim.AdamW(learned.values(), lr=1e-2), []
    everywhere = torch.arange(48)
    for _ in range(4):
        loss = model(tokens(4), logits_at=everywhere, targets=tokens(4, seed=1).flatten()).nll.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    # what is B A at first has no gradient in A while B is zero; from then on all of it moves
    assert all(p.grad is not None and p.grad.any() for p in learned.values())
    for name, tensor in model.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(tensor, before[name.replace(".base_layer", "")]), name


@torch.no_grad()
def test_an_adapter_merges_into_its_base(family, tmp_path: Path):
    base = with_words(tmp_path / "base", family)
    model = load_model(base)
    torch.manual_seed(0)
    attach_lora(model, LoraSettings(r=2, target_modules=targets(family)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(0.0, 0.1)
    save_adapter(model, tmp_path / "adapter")
    merged = merge_adapter(tmp_path / "adapter", tmp_path / "merged", base=base)
    found = [(name, p) for name, p in model.named_parameters() if "lora_A" in name]
    assert merged.changed == sum(len(p) if p.dim() == 3 else 1 for _, p in found)
    same(load_model(tmp_path / "merged")(tokens()).logits, model(tokens()).logits, atol=1e-4)
    assert (model(tokens()).logits - load_model(base)(tokens()).logits).abs().max() > 1e-2


def test_bfloat16_loading_and_casting_agree(family, tmp_path: Path):
    folder = checkpoint(tmp_path, family)
    loaded, cast = load_model(folder, dtype="bfloat16"), load_model(folder)
    for parameter in cast.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    for name, tensor in cast.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert torch.equal(loaded(tokens()).logits, cast(tokens()).logits)
    assert loaded(tokens()).logits.isfinite().all()


def test_the_same_seed_builds_the_same_model(family, tmp_path: Path):
    folder = write_config(tmp_path, family)
    first, second, other = (load_model(folder, from_scratch=True, seed=seed) for seed in (3, 3, 4))
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)
    assert not torch.equal(first.head.weight, other.head.weight)
