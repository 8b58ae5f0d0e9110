"""Rules about objectives: an autoregressive run takes no setting that is about noise, and pads without learning it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from unmask.training.arguments import Settings

RUN = ("--model_name_or_path", "m", "--dataset_args", "d.jsonl", "--objective", "autoregressive", "--output_dir", "o")


def test_padding_is_not_learned_unless_asked_for(settings_of: Callable[..., Settings]) -> None:
    assert settings_of("sft", *RUN).data.padding == "none"
    assert settings_of("sft", *RUN, "--padding", "max_length").data.padding == "max_length"
    assert settings_of("sft", *RUN[:4]).data.padding == "eos"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("loss_weight", "uniform"),
        ("noise_schedule", "cosine"),
        ("time_epsilon", "0.01"),
        ("attention_annealing_steps", "10"),
        ("mask_noise_steps", "10"),
        ("complementary_masks", "true"),
        ("eval_nll_samples", "4"),
    ],
)
def test_noise_has_no_place(refusal: Callable[..., str], option: str, value: str) -> None:
    told = refusal("sft", *RUN, f"--{option}", value)
    assert f"--{option} is set but objective is autoregressive, which draws no noise" in told


@pytest.mark.parametrize("option", ["attention_annealing_steps", "mask_noise_steps"])
def test_easing_takes_no_negative_number(refusal: Callable[..., str], option: str) -> None:
    assert f"--{option} must be >= 0; got -1" in refusal("sft", *RUN[:4], "--output_dir", "o", f"--{option}", "-1")


def test_the_best_model_is_chosen_by_what_is_reported(refusal: Callable[..., str]) -> None:
    best = ("--load_best_model_at_end", "--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "5")
    told = refusal("sft", *RUN, *best, "--save_steps", "5", "--metric_for_best_model", "unscaled_loss")
    assert "objective autoregressive reports loss and nll" in told


def test_an_objective_that_does_not_exist_is_refused(refusal: Callable[..., str]) -> None:
    assert 'Did you mean "autoregressive"' in refusal("sft", *RUN[:4], "--objective", "autoregresive")


BLOCK = (*RUN[:4], "--output_dir", "o", "--objective", "block")


@pytest.mark.parametrize(
    ("argv", "phrase"),
    [
        ((*BLOCK, "--loss_weight", "cart"), "objective block hides those behind its block. Use elbo or uniform."),
        ((*BLOCK, "--attention_annealing_steps", "9"), "which objective block does not use"),
        ((*BLOCK, "--block_curriculum", "1-500"), '"1-500" is not SIZE:UPDATES'),
        ((*BLOCK, "--noisy_views", "0"), "--noisy_views must be >= 1; got 0"),
        ((*BLOCK[:6], "--block_curriculum", "1:500"), "objective is masked, which knows no blocks"),
        ((*BLOCK[:6], "--time_low", "0.6", "--time_high", "0.5"), "time_low (0.6) must be below time_high (0.5)"),
        ((*BLOCK[:6], "--time_high", "1.5"), "--time_high must be in (0, 1]; got 1.5"),
        ((*BLOCK[:6], "--eval_nll_samples", "0"), "--eval_nll_samples must be >= 1; got 0"),
        ((*BLOCK[:6], "--peak_tflops", "0"), "--peak_tflops must be > 0; got 0"),
    ],
)
def test_what_blocks_and_clipped_noise_do_not_go_with(
    refusal: Callable[..., str], argv: tuple[str, ...], phrase: str
) -> None:
    assert phrase in refusal("sft", *argv)


MASKED = BLOCK[:6]


@pytest.mark.parametrize(
    ("argv", "phrase"),
    [
        ((*MASKED, "--time_high", "0.0005"), "time_high (0.0005) must be above time_epsilon (0.001)"),
        ((*BLOCK, "--masking", "bernoulli", "--time_high", "0.001"), "time_high (0.001) must be above time_epsilon"),
        (
            (*MASKED, "--complementary_masks", "true", "--time_epsilon", "0.6"),
            "complementary_masks leave no time to draw: from 0.6 (time_low or time_epsilon) to 0.4",
        ),
        (
            (*MASKED, "--complementary_masks", "true", "--time_epsilon", "0.2", "--time_low", "0.9"),
            "complementary_masks leave no time to draw: from 0.9 (time_low or time_epsilon) to 0.8",
        ),
        ((*BLOCK, "--time_epsilon", "0.01"), "--time_epsilon is the smallest time where tokens are masked one by one"),
        (
            (*MASKED, "--masking", "exact_count", "--time_epsilon", "0.01"),
            "masking is exact_count; it would be ignored",
        ),
        ((*MASKED, "--cart_p", "0.2"), "--cart_p is set but loss_weight is elbo; it would be ignored"),
    ],
)
def test_times_are_left_and_nothing_about_them_is_ignored(
    refusal: Callable[..., str], argv: tuple[str, ...], phrase: str
) -> None:
    assert phrase in refusal("sft", *argv)


@pytest.mark.parametrize(
    "more",
    [
        ("--masking", "exact_count", "--time_high", "0.0005"),
        ("--complementary_masks", "true", "--time_epsilon", "0.4"),
        ("--objective", "block", "--masking", "bernoulli", "--time_epsilon", "0.01"),
        ("--loss_weight", "cart", "--cart_p", "0.2"),
    ],
)
def test_times_that_can_be_drawn_are(settings_of: Callable[..., Settings], more: tuple[str, ...]) -> None:
    settings_of("sft", *MASKED, *more)


def test_blocks_are_asked_for_by_name(settings_of: Callable[..., Settings]) -> None:
    chosen = settings_of("pretrain", *BLOCK, "--block_size", "4", "--block_curriculum", "1:500,4:500")
    assert (chosen.objective.objective, chosen.data.block_size) == ("block", 4)
    assert chosen.objective.block_curriculum == "1:500,4:500"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("--packing true --tokens_per_batch 4096", "packing and tokens_per_batch exclude each other"),
        ("--packed_eos 9", "--packed_eos is set but rows are not packed with padding eos"),
        (
            "--packing true --padding none --packed_eos 9",
            "--packed_eos is set but rows are not packed with padding eos",
        ),
        ("--packing true --packed_eos -1", "--packed_eos must be >= 0; got -1"),
        ("--tokens_per_batch 0", "--tokens_per_batch must be >= 1; got 0"),
        ("--tokens_per_batch 4096 --per_device_train_batch_size 4", "per_device_train_batch_size would be ignored"),
        ("--tokens_per_batch 4096 --streaming true", "which a stream does not know beforehand"),
    ],
)
def test_rows_and_forwards_are_made_one_way(refusal: Callable[..., str], more: str, told: str) -> None:
    assert told in refusal("sft", *RUN[:4], "--output_dir", "o", *more.split())
