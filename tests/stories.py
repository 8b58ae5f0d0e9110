"""The real autoregressive weights in the shared data, as a Llama folder: karpathy's stories260K."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

NAMES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
BOS, EOS = 1, 2


def write_llama(folder: Path, source: Path) -> Path:
    """Weights, configuration and tokenizer of `source`, the folder of the shared data, in transformers' layout."""
    folder.mkdir(parents=True)
    raw = np.fromfile(source / "stories260K.bin", dtype=np.int32, count=7)
    width, inner, layers, heads, groups, vocab, length = (int(value) for value in raw)
    values = torch.from_numpy(np.fromfile(source / "stories260K.bin", dtype=np.float32, offset=28))
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": vocab,
        "max_position_embeddings": length,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    (folder / "config.json").write_text(json.dumps(config))
    kv = width // heads * groups
    sizes = {
        "embed": (vocab, width),
        "norm": (layers, width),
        "q": (layers, width, width),
        "k": (layers, kv, width),
        "v": (layers, kv, width),
        "o": (layers, width, width),
        "mlp_norm": (layers, width),
        "gate": (layers, inner, width),
        "down": (layers, width, inner),
        "up": (layers, inner, width),
        "last": (width,),
    }
    parts, start = {}, 0
    for name, size in sizes.items():
        count = int(np.prod(size))
        parts[name] = values[start : start + count].view(size)
        start += count
    save_file(_named(parts, layers, heads, groups), folder / "model.safetensors", metadata={"format": "pt"})
    _write_tokenizer(folder, source)
    return folder


def _named(parts: dict[str, torch.Tensor], layers: int, heads: int, groups: int) -> dict[str, torch.Tensor]:
    named = {"model.embed_tokens.weight": parts["embed"], "model.norm.weight": parts["last"]}
    for layer in range(layers):
        here = f"model.layers.{layer}."
        values = (_halves(parts["q"][layer], heads), _halves(parts["k"][layer], groups), parts["v"][layer])
        named |= {f"{here}{name}.weight": value for name, value in zip(NAMES, values, strict=False)}
        named[f"{here}self_attn.o_proj.weight"] = parts["o"][layer]
        named[f"{here}input_layernorm.weight"] = parts["norm"][layer]
        named[f"{here}post_attention_layernorm.weight"] = parts["mlp_norm"][layer]
        named |= {f"{here}mlp.{name}_proj.weight": parts[name][layer] for name in ("gate", "up", "down")}
    return {name: value.contiguous() for name, value in named.items()}


def _halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama2.c rotates neighbouring pairs of a head, transformers its two halves."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def _write_tokenizer(folder: Path, source: Path) -> None:
    """sentencepiece's BPE: of all mergeable neighbours the pair whose union has the best score is merged first."""
    data, place, pieces = (source / "tok512.bin").read_bytes(), 4, []
    while place < len(data):
        score, size = struct.unpack_from("<fi", data, place)
        pieces.append((data[place + 8 : place + 8 + size].decode(), score))
        place += 8 + size
    # llama2.c writes spaces and marks of its own where sentencepiece has names
    named = {0: "<unk>", BOS: "<s>", EOS: "</s>"}
    texts = [named.get(index, text.replace(" ", "▁")) for index, (text, _) in enumerate(pieces)]
    vocabulary = {text: index for index, text in enumerate(texts)}
    order = sorted(range(len(texts)), key=lambda index: -pieces[index][1])
    merges = [
        (texts[index][:cut], texts[index][cut:])
        for index in order
        if index > 258
        for cut in range(1, len(texts[index]))
        if texts[index][:cut] in vocabulary and texts[index][cut:] in vocabulary
    ]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in named.values()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    dressed = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    dressed.save_pretrained(folder)
