"""What of a long request a model reads: of a prompt and its answer, of a prompt and its target, of a text in stretches.

Ids and counts in, ids and counts out; knows neither models nor tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterator

Ids = list[int]
# of an answer, where that many are asked for and a quarter of the model's length is no less: the prompt is cut for them
LEAST_ANSWER = 128


def answer_room(prompt: int, wanted: int, limit: int) -> int:
    """Tokens that an answer may have: no more than a whole prompt leaves, unless that is next to nothing.

    Args:
        prompt: tokens of it. wanted: tokens that the task asks for. limit: tokens of both that the model reads.
    """
    least = min(wanted, LEAST_ANSWER, max(1, limit // 4))
    return max(least, min(wanted, limit - prompt))


def fitted_pair(prompt: Ids, target: Ids, room: int) -> tuple[Ids, Ids]:
    """The last `room` tokens of a prompt and its target; where there is a prompt, one of them at least is its own."""
    target = target[-room + bool(prompt) :]
    return prompt[max(0, len(prompt) + len(target) - room) :], target


def stretches(begun: Ids, ids: Ids, room: int) -> Iterator[tuple[Ids, Ids]]:
    """A long text as pairs of what is read and what is scored after it, of `room` tokens each.

    The first is scored after `begun`, which is a token or none, each other one after the token before it; the last has
    so much before it that it is no shorter (the harness' rolling windows with a context of one token).
    """
    for start in range(0, len(ids), room - 1):
        end = min(start + room - 1, len(ids))
        yield (ids[end - room : start] if start else begun), ids[start:end]
