"""The model card of a release (Mitchell et al. 2019): its ``README.md``, with the head that model hubs read.

A pure function of the manifest and of what is known about the release. The card is signed with the release (it is one
of its files), so it says nothing that is only known later, such as the version that it is published under.
"""

import math
import re
from collections.abc import Mapping, Sequence

import msgspec

from evergrove.core.errors import UsageError
from evergrove.core.measures import Comparison
from evergrove.core.release import Manifest
from evergrove.rules import gate
from evergrove.views.sentences import name

AGAINST = {
    "incumbent": "the release before",
    "release": "the first release of the generation",
    "teacher": "the teacher",
    "gain": "gain on what was learnt",
}

BAR = r"\|"
UNCLAIMED = (
    "Not claimed: protection from the operator of a fog, immunity to backdoors, unlearning of what was released."
)


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a card says beyond the manifest.

    ``trained_on`` is one or more sentences, ``licence`` an SPDX name. ``comparisons`` and ``policy`` are what the
    fleet's golden gate measured and by which margins it judged (none: it was not measured). ``quality`` are further
    measures by name. ``epsilon`` at ``delta`` is what it spent: infinite where no noise was added, 0 where no user's
    data went in; ``cohorts`` of updates went in. ``parent`` is the manifest's SHA-256 of the release before.
    """

    trained_on: str
    licence: str = "Apache-2.0"
    comparisons: tuple[Comparison, ...] = ()
    policy: gate.Policy | None = None
    quality: Mapping[str, float] = {}
    epsilon: float = math.inf
    delta: float = 0.0
    cohorts: int = 0
    parent: str | None = None


def model_card(manifest: Manifest, about: About) -> str:
    """The card as Markdown. Raises ``UsageError`` for measures without the policy that they were judged by."""
    if about.comparisons and about.policy is None:
        raise UsageError("a card that shows what the gate measured needs the policy that it judged by")
    parts = (
        _head(manifest, about),
        f"# {_plain(manifest.name)}, generation {manifest.generation}, version {manifest.version}",
        _what(manifest),
        "## What it can be asked for",
        _conditions(manifest),
        "## What it was trained on",
        _plain(about.trained_on),
        "## What the golden gate measured",
        _gate(manifest, about),
        "## Privacy",
        _privacy(about),
        "## Where it comes from",
        _lineage(about),
        "## Files",
        _files(manifest),
        "## Licence",
        f"{_plain(about.licence)}. {UNCLAIMED}",
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(manifest: Manifest, about: About) -> str:
    """YAML, as Hugging Face reads it; quoted as JSON, which is YAML too."""

    def quoted(text: str) -> str:
        return msgspec.json.encode(" ".join(text.split())).decode()

    lines = [f"license: {quoted(about.licence.lower())}", "library_name: evergrove", "tags: [continual-learning, lora]"]
    return "\n".join(["---", f"model_name: {quoted(manifest.name)}", *lines, "---"])


def _what(manifest: Manifest) -> str:
    said = (
        f"A generator of {manifest.image_px} × {manifest.image_px} pictures that goes on learning on devices, with "
        f"adapters W' = W + {manifest.scale:g}·B·A of rank {manifest.rank} (A is frozen and part of this release)."
    )
    if manifest.adapter is None:
        return said
    return f"{said} What the fleet has learnt stands in `{_plain(manifest.adapter.name)}`, on top of the base."


def _conditions(manifest: Manifest) -> str:
    rows = [(factor.name, ", ".join(factor.values)) for factor in manifest.vocabulary.factors]
    sampler = manifest.sampler
    said = f"Measured at {sampler.steps} {sampler.method} steps, guidance {sampler.guidance:g}."
    fleet = [
        f"{factor.name} {', '.join(factor.values[n:])}"
        for factor, n in zip(manifest.vocabulary.factors, manifest.known, strict=True)
        if factor.values[n:]
    ]
    if fleet:
        said += f" The golden set does not judge what the fleet's devices learn together: {_plain('; '.join(fleet))}."
    return f"{_table(('factor', 'values'), rows)}\n\n{said}"


def _gate(manifest: Manifest, about: About) -> str:
    policy = about.policy
    quality = _table(("measure", "value"), [(key, f"{value:.4g}") for key, value in sorted(about.quality.items())])
    if policy is None or not about.comparisons:
        return quality if about.quality else "Nothing: this release has not gone through the fleet's gate."
    rows = [_row(manifest, policy, one) for one in about.comparisons]
    said = (
        "Harm is the paired difference in denoising loss, in units of what the condition is worth: 0 is no change, 1 "
        "is as bad as being told another condition. The bound is one-sided; every line must pass."
    )
    table = _table(("condition", "against", "items", "harm", "bound", "margin", ""), rows)
    return f"{said}\n\n{table}" + (f"\n\n{quality}" if about.quality else "")


def _row(manifest: Manifest, policy: gate.Policy, one: Comparison) -> tuple[str, ...]:
    question = gate.Question(one.kind, one.condition)
    failed = gate.examine(policy, [one], [question])
    measured = one.n >= 2 and math.isfinite(one.mean) and math.isfinite(one.std)
    alpha = policy.alpha_gain if one.kind == "gain" else policy.alpha_look
    bound = f"{gate.bound_on_harm(one.mean, one.std, one.n, alpha):+.3f}" if measured else "none"
    verdict = f"**fails**: {failed[0].why}" if failed else "passes"
    condition = name(one.condition, manifest.vocabulary)
    margin = f"{policy.margin(question):g}"
    return (condition, AGAINST[one.kind], str(one.n), f"{one.mean:+.3f}", bound, margin, verdict)


def _privacy(about: About) -> str:
    if about.epsilon == 0:
        return "ε = 0: no user's data went into this release."
    if math.isinf(about.epsilon):
        return (
            "**ε = ∞: no noise was added.** What a single user's device learnt may be found in this release. The fogs "
            "were trusted with single updates, the cloud with their sums."
        )
    return (
        f"ε = {about.epsilon:.3g} at δ = {about.delta:.0e} for one user over this generation, from {about.cohorts} "
        "cohorts. It protects a user from the cloud, from other devices and from whoever reads this release; the fogs "
        "were trusted with single updates."
    )


def _lineage(about: About) -> str:
    if about.parent is None:
        return "The first of its line."
    cohorts = f"{about.cohorts} {'cohort' if about.cohorts == 1 else 'cohorts'} of devices"
    return f"Made from the release `{_plain(about.parent)}` and {cohorts}."


def _files(manifest: Manifest) -> str:
    rows = [(f"`{ref.name}`", f"{ref.n_bytes:,}", f"`{ref.sha256}`") for ref in manifest.files()]
    return _table(("file", "bytes", "SHA-256"), rows)


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(_inline(cell).replace('|', BAR) for cell in line)} |" for line in lines)


def _plain(text: str) -> str:
    """A paragraph that stays one: what names and sentences from outside bring along is text, no markup."""
    return re.sub(r"^([#>*+-])", r"\\\1", _inline(text))


def _inline(text: str) -> str:
    return re.sub(r"([<\[\]])", r"\\\1", " ".join(text.split()))
