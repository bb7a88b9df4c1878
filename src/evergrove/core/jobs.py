"""What a device asks of a worker process, and what comes back: one JSON file each way in the job's folder.

A *job* is one run of a worker: training a candidate, or measuring one on the golden set. The agent writes ``job.json``,
the worker writes ``outcome.json``; both are written whole or not at all.
"""

import msgspec

from evergrove.core.conditions import Code
from evergrove.core.config import Gate, Learn
from evergrove.core.measures import Choice, Comparison


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of the jobs. ``device`` and ``release`` are folders."""

    device: str
    release: str


class Train(Spec, frozen=True, tag="train"):
    """Learn the ``fresh`` records on top of ``parent`` (an adapter's SHA-256, None for the release alone).

    ``assist`` is the SHA-256 of an assist in the device's folder ``assists`` (None: learn without); ``rehearse`` adds
    its pictures to the replay.
    """

    parent: str | None
    fresh: tuple[str, ...]
    learn: Learn
    seed: int
    assist: str | None = None
    rehearse: bool = False


class Measure(Spec, frozen=True, tag="measure"):
    """Measure an adapter, scaled by ``gamma``, on the golden set.

    ``candidate`` is the SHA-256 of one of the device's own, ``source`` a file from elsewhere that is checked first;
    with neither, the incumbent itself is checked again. ``learnt`` are the new conditions that must show a gain.
    """

    candidate: str | None
    source: str | None
    incumbent: str | None
    learnt: tuple[Code, ...]
    gamma: float
    learn: Learn


class Choose(Spec, frozen=True, tag="choose"):
    """Measure what may run on another release.

    ``arriving`` is its folder, ``incumbent`` what serves now, ``given`` what the last update was made of (None: the
    present release alone, both). ``held_back`` are training records that the incumbent was not trained on, ``learnt``
    the conditions that it has learnt. What ``gate`` lets in first is the last that is measured.
    """

    arriving: str
    incumbent: str | None
    given: str | None
    held_back: tuple[str, ...]
    learn: Learn
    learnt: tuple[Code, ...] = ()
    gate: Gate = Gate()


class Trained(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="trained"):
    """A finished training: the candidate's SHA-256, what it cost, and the conditions that it learnt."""

    candidate: str
    steps: int
    seconds: float
    loss: float
    n_bytes: int


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="measured"):
    """A finished measurement: per condition statistics only, never a value per item.

    ``candidate`` is the SHA-256 of the adapter that was measured (after scaling by gamma).
    """

    candidate: str
    comparisons: tuple[Comparison, ...]
    seconds: float


class Chosen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="chosen"):
    """What may run on another release, best first, up to the first that the gate lets in; numbers of conditions by
    ``table``, as that release has them."""

    choices: tuple[Choice, ...]
    known: Code
    table: tuple[Code, ...]
    teacher: bool
    seconds: float


class Refused(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="refused"):
    """An adapter that failed its checks before any measurement, with the reason in words."""

    reason: str


class Failed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="failed"):
    """A worker that stopped on an error of its own; trying again would give the same."""

    reason: str


Job = Train | Measure | Choose
Outcome = Trained | Measured | Chosen | Refused | Failed
