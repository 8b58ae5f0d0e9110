"""Llama (1 to 3.3) and whatever has its layout, autoregressive: facts of the official checkpoints, nothing else."""

from __future__ import annotations

from unmask.models.families import ModelFamily, llama_layout
from unmask.models.families.llada import CHAT_TEMPLATE as LLAMA_3
from unmask.models.families.mistral import CHAT_TEMPLATE as LLAMA_2

# LLaDA took Llama 3's over, Mistral Llama 2's; the marks of one are no tokens of the other
CHAT_TEMPLATE = f"{{% if bos_token == '<s>' %}}{LLAMA_2}{{% else %}}{LLAMA_3}{{% endif %}}"

FAMILY = ModelFamily(
    name="llama",
    model_type="llama",
    architecture="LlamaForCausalLM",
    trunk="unmask.models.dense:DenseTrunk",
    reader=llama_layout.reader(
        defaults={"attention_bias": False, "max_position_embeddings": 2048, "mlp_bias": False},
        fixed={"attention_bias": (False,), "mlp_bias": (False,)},
    ),
    keys=llama_layout.KEYS,
    mask_token=None,
    mask_token_id=None,
    stop_tokens=("<|end_of_text|>", "<|eot_id|>", "</s>"),
    eos_token="<|end_of_text|>",
    bos_token="<|begin_of_text|>",
    chat_template=CHAT_TEMPLATE,
    lora_targets=llama_layout.LORA_TARGETS,
    tiny_config={"model_type": "llama", "architectures": ["LlamaForCausalLM"], **llama_layout.TINY},
    paper="arXiv 2302.13971, 2407.21783",
    attention="causal",
    sizes={"Llama-3.1-8B": 8_030_261_248},
)
