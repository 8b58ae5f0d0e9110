"""A configuration is read through an allow-list, value by value; a hostile one is refused before anything is built."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.models.tiny import LLADA, on_meta, write_config
from unmask.errors import ModelError
from unmask.models.checkpoints import load_model, save_model
from unmask.models.facts import facts_of, read_facts
from unmask.registry import FAMILIES

TINY = dict(LLADA.tiny_config)
HUGE = 10**30


def refusal(**changes: object) -> str:
    with pytest.raises(ModelError) as caught:
        facts_of({**TINY, **changes}, where="some/config.json")
    message = str(caught.value)
    assert message.startswith("some/config.json") and "\n" not in message
    return message


def test_the_golden_configuration_is_read(shared: Path):
    facts = read_facts(shared / "golden/llada")
    assert (facts.mask_token_id, facts.family.name) == (511, "llada")
    shape = facts.shape
    assert (shape.vocab_size, shape.width, shape.layers, shape.heads, shape.kv_heads) == (512, 64, 3, 4, 4)
    assert (shape.mlp_width, shape.max_length, shape.norm_eps, shape.rope_theta) == (96, 256, 1e-5, 10000.0)
    assert not shape.tied and not shape.qkv_bias and (shape.embedding_scale, shape.logit_scale) == (1.0, 1.0)


def test_what_a_file_leaves_out_is_what_the_official_code_takes():
    shape = facts_of({**TINY, "mlp_hidden_size": None, "n_kv_heads": None, "embedding_size": None}).shape
    assert (shape.mlp_width, shape.kv_heads, shape.vocab_size) == (4 * 32, 4, 64)
    bare = {key: value for key, value in TINY.items() if key not in ("weight_tying", "max_sequence_length")}
    assert facts_of(bare).shape.tied and facts_of(bare).shape.max_length == 1024


def test_one_key_for_all_queries():
    assert facts_of({**TINY, "multi_query_attention": True, "n_kv_heads": None}).shape.kv_heads == 1


def test_rows_beyond_the_vocabulary_belong_to_the_embedding():
    assert facts_of({**TINY, "embedding_size": 128}).shape.vocab_size == 128
    assert "embedding_size 60 is smaller than vocab_size 64" in refusal(embedding_size=60, mask_token_id=1)


def test_the_file_is_kept_as_it_is_but_for_named_changes():
    config = {**TINY, "torch_dtype": "bfloat16", "auto_map": {"AutoModel": "evil.Evil"}, "transformers_version": "9"}
    facts = facts_of(config)
    assert facts.config == config
    assert facts.config_with(torch_dtype="float32") == {**config, "torch_dtype": "float32"}


@pytest.mark.parametrize(
    "key, hint",
    [("n_layer", "n_layers"), ("mlp_hidden_sizes", "mlp_hidden_size"), ("N_HEADS", "n_heads")],
)
def test_an_unknown_key_is_refused_with_the_nearest(key: str, hint: str):
    message = refusal(**{key: 2})
    assert f'key "{key}" is not known for llada' in message and f'Did you mean "{hint}' in message


@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation_internal": "evil/kernel"},
        {"_attn_implementation": "evil/kernel"},
        {"attn_implementation": "evil/kernel"},
        {"quantization_config": {"quant_method": "evil"}},
        {"trust_remote_code": True},
        {"_experts_implementation": "evil/kernel"},
        {"__class__": "os.system"},
        {"": 1},
        {"custom_pipelines": {"x": {"impl": "evil.py"}}},
        {"pretrained_cfg": [[[[]]]]},
    ],
)
def test_a_hostile_key_is_refused_without_a_connection(changes: dict, tmp_path: Path, monkeypatch):
    def no_network(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    with pytest.raises(ModelError, match="is not known for llada and might change the model"):
        load_model(write_config(tmp_path, **changes), from_scratch=True)


@pytest.mark.parametrize(
    "key, value",
    [
        ("activation_type", "swiglu"),
        ("activation_type", ["silu"]),
        ("alibi", True),
        ("attention_dropout", 0.1),
        ("attention_layer_norm", True),
        ("bias_for_layer_norm", True),
        ("block_group_size", 2),
        ("block_type", "sequential"),
        ("embedding_dropout", 0.1),
        ("include_bias", True),
        ("init_fn", "xavier"),
        ("layer_norm_type", "default"),
        ("layer_norm_with_affine", False),
        ("multi_query_attention", "false"),
        ("residual_dropout", 0.1),
        ("rope", False),
        ("rope_full_precision", False),
    ],
)
def test_a_value_that_the_forward_pass_lacks_is_refused(key: str, value: object):
    message = refusal(**{key: value})
    assert f"{key}={value!r} is not supported for llada; supported: " in message


def test_the_official_default_is_refused_too_where_we_lack_it():
    with pytest.raises(ModelError, match="block_type='sequential' is not supported"):
        facts_of({key: value for key, value in TINY.items() if key != "block_type"})


@pytest.mark.parametrize("key", ["weight_tying", "include_qkv_bias", "scale_logits", "input_emb_norm"])
@pytest.mark.parametrize("value", ["false", 1, None, []])
def test_a_flag_is_true_or_false(key: str, value: object):
    assert f"{key} is {value!r}; it must be true or false" in refusal(**{key: value})


@pytest.mark.parametrize("key", ["rope_theta", "rms_norm_eps", "init_std"])
@pytest.mark.parametrize("value", ["1e-5", None, True, float("nan"), float("inf"), -1.0, [1]])
def test_a_number_is_a_number(key: str, value: object):
    assert f"{key} is {value!r}; it must be a number of at least 0" in refusal(**{key: value})


def test_angles_need_a_base():
    assert "rope_theta is 0; it must be above 0" in refusal(rope_theta=0)


SIZES = ["d_model", "n_heads", "n_layers", "vocab_size", "n_kv_heads", "mlp_hidden_size", "max_sequence_length"]


@pytest.mark.parametrize("key", SIZES)
@pytest.mark.parametrize("value", [0, -1, 2.0, "32", True, HUGE, [32], {"a": 1}])
def test_a_size_is_a_whole_number_within_reason(key: str, value: object):
    message = refusal(**{key: value, "embedding_size": None, "mask_token_id": None})
    phrases = (
        "whole number from 1 to",
        "value has the wrong type",
        "must be a number of at least 0",
        "must divide into",
    )
    assert any(phrase in message for phrase in phrases)


def test_the_number_of_layers_has_a_limit_of_its_own():
    assert "the model's layers is 100000; it must be a whole number from 1 to 4,096" in refusal(n_layers=100_000)


@pytest.mark.parametrize("changes", [{"d_model": 33}, {"n_heads": 5}, {"n_kv_heads": 3}, {"d_model": 12, "n_heads": 4}])
def test_heads_must_fit(changes: dict):
    assert "must divide into" in refusal(**changes)


@pytest.mark.parametrize("key", ["d_model", "n_heads", "n_layers", "vocab_size"])
def test_a_shape_needs_its_sizes(key: str):
    assert f"lacks {key}, without which a llada model has no shape" in refusal(**{key: None})


@pytest.mark.parametrize("value", [64, -1, "63", True, 1.0, [63]])
def test_the_mask_token_is_a_row(value: object):
    assert f"mask_token_id {value!r} must lie in 0..63" in refusal(mask_token_id=value)


def test_a_file_without_a_mask_token_says_so():
    assert facts_of({**TINY, "mask_token_id": None}).mask_token_id is None


@pytest.mark.parametrize("value", ["gpt2", None, 5, ["llada"], {"a": {"b": 1}}])
def test_other_kinds_of_model_are_refused(value: object):
    assert f'model_type "{value}" is not supported; supported: a2d-llama, ' in refusal(model_type=value)


def test_a_kind_nearly_named_is_guessed():
    assert 'Did you mean "llada"?' in refusal(model_type="lada")


BROKEN = {
    "nothing": b"",
    "half": b'{"model_type": "llada", ',
    "not text": b"\xff\xfe\x00",
    "deep": b"[" * 200_000,
    "a long number": b'{"d_model": ' + b"9" * 100_000 + b"}",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_json_is_named(name: str, tmp_path: Path):
    (tmp_path / "config.json").write_bytes(BROKEN[name])
    with pytest.raises(ModelError, match="config.json is not valid JSON"):
        read_facts(tmp_path)


@pytest.mark.parametrize("text, kind", [("[]", "list"), ("null", "NoneType"), ('"llada"', "str"), ("3", "int")])
def test_json_that_is_no_configuration_is_refused(text: str, kind: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=f"holds a {kind}, not a configuration"):
        read_facts(tmp_path)


def test_a_folder_without_a_configuration_is_no_checkpoint(tmp_path: Path):
    with pytest.raises(ModelError, match="holds no config.json, so it is no checkpoint"):
        read_facts(tmp_path)


def test_a_checkpoint_may_be_made_for_blocks():
    facts = facts_of({**TINY, "attention": "block_causal", "block_size": 16})
    assert (facts.attention, facts.block_size) == ("block_causal", 16)
    assert facts.shape == facts_of(TINY).shape
    assert facts_of({**TINY, "attention": "block_causal"}).block_size is None
    assert (facts_of(TINY).attention, facts_of(TINY).block_size) == ("bidirectional", None)


def test_what_a_family_was_made_for_is_its_checkpoints_fact_unless_these_say_otherwise():
    config = dict(FAMILIES.get("llada2").tiny_config)
    assert (facts_of(config).attention, facts_of(config).block_size) == ("block_causal", 32)
    assert facts_of({**config, "block_size": 4}).block_size == 4
    opened = facts_of({**config, "attention": "bidirectional"})
    assert (opened.attention, opened.block_size) == ("bidirectional", None)


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"attention": "causal"}, "attention is 'causal'; it can be bidirectional or block_causal"),
        ({"attention": ["block_causal"]}, "it can be bidirectional or block_causal"),
        ({"attention": None}, "attention is None"),
        ({"attention": "block_causal", "block_size": 0}, "block_size is 0; it must be a whole number from 1 to 128"),
        ({"attention": "block_causal", "block_size": 129}, "from 1 to 128"),
        ({"attention": "block_causal", "block_size": True}, "block_size is True"),
        ({"attention": "block_causal", "block_size": "16"}, "block_size is '16'"),
        ({"block_size": 16}, "block_size is 16, but attention is bidirectional"),
    ],
)
def test_blocks_must_make_sense(changes: dict, phrase: str):
    assert phrase in refusal(**changes)


def test_a_checkpoint_made_for_blocks_later_is_saved_so(tmp_path: Path):
    model = load_model(write_config(tmp_path), from_scratch=True)
    model.facts = model.facts.made_for("block_causal", 8)
    save_model(model, tmp_path / "saved")
    again = read_facts(tmp_path / "saved")
    assert (again.attention, again.block_size) == ("block_causal", 8)
    opened = again.made_for("bidirectional")
    assert (opened.attention, opened.block_size) == ("bidirectional", None)
    with pytest.raises(ModelError, match="this llada model: block_size is 129"):
        again.made_for("block_causal", 129)


def test_an_autoregressive_checkpoint_has_no_choice():
    with pytest.raises(ModelError, match='key "attention" is not known for llama'):
        facts_of({**FAMILIES.get("llama").tiny_config, "attention": "block_causal"})


def test_values_that_change_nothing_are_let_through():
    odd = {"eos_token_id": ["x"], "use_cache": [], "auto_map": 5, "architectures": None, "precision": {"a": 1}}
    assert on_meta({**TINY, **odd}).config.to_dict() == json.loads(json.dumps({**TINY, **odd}))
