"""Every setting of a training run, beside those of transformers' own `TrainingArguments`.

Flat, frozen, documented once: the line below a field is its help on the command line. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from unmask.errors import ConfigError

CheckpointingStrategy = Literal["whole_layer", "one_in_two", "one_in_three", "one_in_four", "fine_grained", "selective"]


@dataclass(frozen=True)
class ModelArguments:
    """Which model is trained, and which part of it."""

    model_name_or_path: str | None = None
    """Folder or Hub id of a checkpoint; a folder with a configuration but no weights starts from scratch."""
    from_scratch: bool = False
    """Initialise from the configuration even where there are weights."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type the weights are held in; auto: float32 for full training, bfloat16 under an adapter on a GPU."""
    attn_implementation: Literal["auto", "sdpa", "eager"] = "auto"
    """Attention kernel."""
    adapter: str | None = None
    """Folder of a LoRA adapter to continue from."""
    lora: bool = False
    """Train a LoRA adapter instead of all weights."""
    r: int = 32
    """Rank of the adapter."""
    lora_alpha: int = 64
    """Scale of the adapter."""
    lora_dropout: float = 0.05
    """Dropout before the adapter."""
    target_modules: str | list[str] = "all-linear"
    """Layers that get an adapter: all-linear, or names separated by commas."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases the adapter trains."""
    modules_to_save: str | list[str] | None = None
    """Layers trained whole beside the adapter."""
    use_dora: bool = False
    """Learn the size of each output's weights apart from their direction (DoRA)."""
    use_rslora: bool = False
    """Scale the adapter by lora_alpha / sqrt(r) instead of lora_alpha / r (rsLoRA)."""
    load_in_4bit: bool = False
    """Hold the frozen base in 4 bits (QLoRA; needs the extra `quant`)."""
    load_in_8bit: bool = False
    """Hold the frozen base in 8 bits (needs the extra `quant`)."""
    freeze: str | list[str] | None = None
    """Weights that stay as they are, separated by commas: attention, mlp, embeddings, head, norms, parts of names as in
    model.safetensors, or patterns of them (*.layers.0.*)."""
    attention_annealing_steps: int = 0
    """Updates during which attention opens from causal to full, for a converted model; 0: open from the start."""
    mask_noise_steps: int = 0
    """Updates during which noise is added to the mask token's embedding, ever less, for a converted model; 0: none."""


@dataclass(frozen=True)
class DataArguments:
    """Which data, and how rows become tokens."""

    dataset_args: str | None = None
    """NAME_OR_PATH[key:value,...], joined by +; keys: train, test, name, split, seed, weight."""
    eval_dataset_args: str | None = None
    """The same grammar, for evaluation only."""
    text_field: str = "text"
    """Column that holds the text of a pretraining row."""
    max_length: int = 1024
    """Longest row, tokens."""
    truncation: Literal["right", "filter"] = "right"
    """What happens to a longer conversation: cut at the right, or left out."""
    num_proc: int = 1
    """Processes that tokenise."""
    streaming: bool | None = None
    """Read the dataset while training instead of before; default: yes for Hub data in `pretrain`, no otherwise."""
    insert_eos: bool = True
    """Put the end-of-text token after each document."""
    drop_tail: bool = True
    """Leave out the last, incomplete row of a packed corpus."""
    random_length_ratio: float = 0.0
    """Share of rows cut to a random length (LLaDA's pretraining: 0.01)."""
    load_preprocessed_data: bool = False
    """The dataset comes from `unmask prepare` or `save_to_disk`; rows with input_ids are used as they are."""
    overwrite_cache: bool = False
    """Tokenise again where an earlier run kept its tokens."""
    mask_prompt_loss: bool = True
    """Only answers may be noised; false: the whole conversation."""
    train_turns: Literal["all", "last"] = "all"
    """Which assistant turns are learned. The length of all but the last can be told from what follows them."""
    padding: Literal["eos", "none", "block", "max_length"] = "eos"
    """How short conversations are filled up: eos (visible, learned), none (invisible), block, max_length."""
    block_size: int = 32
    """Tokens per block, for the padding `block` and the objective `block`; default: what the checkpoint says, or 32."""
    skip_bad_rows: bool = False
    """Count bad rows and go on, instead of stopping at the first."""
    packing: bool = False
    """Fill rows of max_length with whole conversations or documents, each seeing only itself, so that next to nothing
    is padded; per_device_train_batch_size counts such rows."""
    packed_eos: int = 64
    """Most end-of-text tokens learned behind a packed conversation (padding eos), 15 on average; their number varies,
    so that it does not tell where an answer ends."""
    tokens_per_batch: int | None = None
    """Instead of per_device_train_batch_size: forwards of rows of similar length, as many as fit into so many tokens,
    padding included."""


@dataclass(frozen=True)
class ObjectiveArguments:
    """What is minimised."""

    objective: Literal["masked", "block", "autoregressive"] = "masked"
    """masked: MDLM's and LLaDA's bound; block: the same inside blocks of block_size tokens, each given all before it
    (BD3-LM, SDAR, LLaDA2), the default for a checkpoint that was made for blocks; autoregressive: the next token, for a
    baseline of Llama, Mistral or Qwen."""
    block_curriculum: str | None = None
    """Block sizes of the first updates, SIZE:UPDATES joined by commas (1:500,4:500,1024:2000); then block_size."""
    noise_schedule: str = "linear"
    """linear, cosine, maskgit_cosine or polynomial."""
    time_sampling: Literal["low_discrepancy", "iid"] = "low_discrepancy"
    """How the times of consecutive samples are drawn."""
    time_epsilon: float = 1e-3
    """Smallest time, where tokens are masked one by one."""
    time_low: float = 0.0
    """Clipped noise: smallest time in training. Evaluation always uses all times."""
    time_high: float = 1.0
    """Clipped noise: largest time in training."""
    masking: Literal["auto", "bernoulli", "exact_count"] = "auto"
    """bernoulli masks each token by chance, exact_count a number of them; auto: exact_count for block."""
    noisy_views: int = 1
    """Noisy copies of each row in a forward; those of objective block share one clean copy."""
    complementary_masks: bool = False
    """Follow each noisy copy by another in which exactly its other tokens are masked, so that each is learned once."""
    loss_weight: Literal["elbo", "uniform", "cart"] = "elbo"
    """Weight of a masked token's cross-entropy."""
    cart_p: float = 0.3
    """Decay of Dream's context-adaptive weight."""
    loss_normalization: Literal["auto", "token", "sequence", "batch"] = "auto"
    """Divide by noisable tokens, each answer's length, or sequences; auto: token for pretrain, sequence for sft."""


@dataclass(frozen=True)
class RunArguments:
    """How the run is conducted."""

    dry_run: bool = False
    """Show the settings, the first batch and the size of the model; train nothing, write nothing."""
    fresh: bool = False
    """Move an earlier run in the output folder aside and start anew."""
    hang_timeout: float = 3600.0
    """Seconds without the end of a forward, an evaluation step or a save after which all stacks are printed and the
    process ends; 0: never."""
    allow_change: str | None = None
    """Go on with a run although these of its settings have changed, joined by commas (learning_rate, data, ...)."""
    checkpointing_strategy: CheckpointingStrategy = "whole_layer"
    """What gradient_checkpointing computes again: every layer, each second, third or fourth; fine_grained: every layer,
    attention and MLP one after the other, for the least memory; selective: all but products and attention, for the
    least time."""
    report: bool = True
    """Keep a page of the run in OUTPUT_DIR/report.html: curves, samples, settings, memory."""
    sample_prompts: tuple[str, ...] | None = None
    """Prompts that the model in training answers for the report, each with a flag of its own, or a file of them, one
    per line; default: three rows of the evaluation data; an empty one: no samples."""
    sample_every: int | None = None
    """Updates between samples; default: whenever there is an evaluation, before the first update and after the last."""
    sample_new_tokens: int = 64
    """Most tokens written after each prompt of the report, two by each forward; fewer where answers are short."""
    eval_nll_samples: int = 1
    """Noisy copies of each evaluation row; twice as many take twice as long and give a smaller standard error."""
    peak_tflops: float | None = None
    """What one device could compute, 10^12 operations per second, for the metric mfu; default: by the name of the GPU,
    on a CPU measured."""
    logging_dir: str | None = None
    """Folder of TensorBoard's files; default: OUTPUT_DIR/logs."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run.

    Attributes:
        model: which model is trained.
        data: which data.
        objective: what is minimised.
        run: how the run is conducted.
        trainer: keyword arguments of transformers' `TrainingArguments`, typed; what is absent is transformers'
            default, but for `bf16`: absent, it is on where the device has bfloat16.
        left_open: of `objective` and `block_size`, what nobody chose: a checkpoint that was made for blocks decides.
    """

    model: ModelArguments = field(default_factory=ModelArguments)
    data: DataArguments = field(default_factory=DataArguments)
    objective: ObjectiveArguments = field(default_factory=ObjectiveArguments)
    run: RunArguments = field(default_factory=RunArguments)
    trainer: dict[str, Any] = field(default_factory=dict)
    left_open: tuple[str, ...] = ()


def block_sizes(text: str | None) -> tuple[tuple[int, int], ...]:
    """The (size, updates) pairs that `block_curriculum` names.

    Raises:
        ConfigError: it is not of that form.
    """
    pairs: list[tuple[int, int]] = []
    for part in (text or "").replace(" ", "").split(",") if text else ():
        size, _, updates = part.replace("_", "").partition(":")
        if not (size.isdecimal() and updates.isdecimal() and int(size) and int(updates)):
            raise ConfigError(
                f'block_curriculum: "{part}" is not SIZE:UPDATES. Example: 1:500,4:500,1024:2000 begins with blocks of '
                "one token for 500 updates; afterwards blocks have block_size tokens."
            )
        pairs.append((int(size), int(updates)))
    return tuple(pairs)
