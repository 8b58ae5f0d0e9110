"""Which requests are answered together: a function of what is asked, whatever is answered already and by how many.

What shares a forward shows in the last digits of a likelihood. With the same batches an evaluation that was interrupted
ends with the bytes of one that was not, and several processes, which share batches out, with those of one. Knows no
models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from unmask.evaluation.requests import Answers, Request

# forwards' worth of rows in a batch: it is computed anew where a process was killed within it
_FORWARDS = 8
# a target of so many characters has more masks than anybody asks for
_MANY = 20


@dataclass(frozen=True)
class Batch:
    """Requests of one kind that are answered together, and the run that asked them first: see `Answers.run_of`."""

    run: str
    requests: tuple[Request, ...]


def planned(
    wanted: Mapping[str, Request], answers: Answers, split: Callable[[Sequence[Request]], Iterable[Sequence[Request]]]
) -> list[Batch]:
    """The batches of a run, and some of what other runs have answered, which is in no batch of this one.

    What an interrupted run of the same requests has answered is in those it was in then.

    Args:
        wanted: requests by the key of their answer, in any order.
        answers: those that are there.
        split: puts requests together, some of one kind.
    """
    run, keys = answers.run_that_asks(wanted)
    # in the order of their keys, which is nobody's
    own, there = ([wanted[key] for key in sorted(some)] for some in (keys, set(wanted) - keys))
    return [Batch(run, tuple(part)) for requests in (own, there) for part in split(requests)]


def longest_first(requests: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
    """So many at a time, those of like length together."""
    ordered = sorted(requests, key=lambda request: -len(request.prompt) - len(request.target))
    return (ordered[start : start + size] for start in range(0, len(ordered), size))


def by_prompt(
    requests: Sequence[Request], batch_size: int, samples: int, *, begins_alike: bool
) -> Iterator[Sequence[Request]]:
    """Requests to be scored, some forwards' worth at a time; the choices of one question together.

    Args:
        requests: any.
        batch_size: rows per forward. samples: rows of a target, at most.
        begins_alike: prompts that begin alike follow each other; otherwise the longest come first.
    """
    groups: dict[tuple[str, ...], list[Request]] = {}
    for request in requests:
        groups.setdefault(rivals(request), []).append(request)
    longest = {name: 0 if begins_alike else max(len(request.prompt) for request in own) for name, own in groups.items()}
    room, batch, rows = _FORWARDS * batch_size, list[Request](), 0
    for name in sorted(groups, key=lambda name: (-longest[name], name)):
        # many after one prompt, or after none, are no question
        size = len(groups[name]) if len(name) > 1 else room
        for start in range(0, len(groups[name]), size):
            if rows >= room:
                yield batch
                batch, rows = [], 0
            some = groups[name][start : start + size]
            batch += some
            rows += sum(min(samples, 2 ** min(len(request.target), _MANY)) for request in some)
    if batch:
        yield batch


def rivals(request: Request) -> tuple[str, ...]:
    """What choices of one question have in common, which are scored until they are told apart; or just the prompt."""
    question = request.settings.get("question")
    return (question, str(request.number)) if question else (request.prompt,)
