"""Mistral 7B and whatever has its layout, autoregressive: facts of the official checkpoints, nothing else."""

from __future__ import annotations

from unmask.models.families import ModelFamily, llama_layout

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + eos_token }}"
    "{% else %}{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}{% endif %}"
    "{% endfor %}"
)

FAMILY = ModelFamily(
    name="mistral",
    model_type="mistral",
    architecture="MistralForCausalLM",
    trunk="unmask.models.dense:DenseTrunk",
    reader=llama_layout.reader(
        defaults={"max_position_embeddings": 131072, "num_key_value_heads": 8},
        # a file that does not say so has the first release's
        ignored=("sliding_window",),
        window=4096,
    ),
    keys=llama_layout.KEYS,
    mask_token=None,
    mask_token_id=None,
    stop_tokens=("</s>",),
    eos_token="</s>",
    bos_token="<s>",
    chat_template=CHAT_TEMPLATE,
    lora_targets=llama_layout.LORA_TARGETS,
    tiny_config={"model_type": "mistral", "architectures": ["MistralForCausalLM"], **llama_layout.TINY},
    paper="arXiv 2310.06825",
    attention="causal",
    sizes={"Mistral-7B": 7_241_732_096},
)
