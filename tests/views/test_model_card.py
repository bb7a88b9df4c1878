"""The model card says what is known, in numbers that can be checked, and nothing that a name could smuggle in."""

import math

import msgspec
import pytest

from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import UsageError
from evergrove.core.measures import Comparison
from evergrove.core.release import FileRef, Manifest
from evergrove.rules import gate
from evergrove.views.model_card import About, model_card

REFS = [
    FileRef(f"{name}.bin", f"{i}" * 64, 1234 + i) for i, name in enumerate(("base", "basis", "golden", "rehearsal"))
]
MANIFEST = Manifest(
    "avatars", 2, 7, 64, Vocabulary((Factor("emotion", ("happy", "sad")), Factor("hair", ("bob",)))), 12, 1.0, *REFS
)
POLICY = gate.Policy(delta=0.05, cumulative=0.10, tau=0.10, own=0.25, updates_max=1, gammas=(1.0,))
ABOUT = About(
    trained_on="Forty cohorts of six devices each.",
    comparisons=(
        Comparison("incumbent", (1, 0), 36, 0.01, 0.06),
        Comparison("release", (2, 0), 36, 0.2, 0.06),
        Comparison("gain", (2, 0), 1, -0.4, 0.1),
    ),
    policy=POLICY,
    quality={"oracle accuracy": 0.9712},
    epsilon=0.994,
    delta=1e-6,
    cohorts=40,
    parent="ab" * 32,
)


def test_it_says_what_the_fleet_has_learnt_and_what_is_not_judged() -> None:
    """An adapter in the files, on top of the base; a third emotion that no golden picture is of."""
    vocabulary = MANIFEST.vocabulary.extend({"emotion": "love"})
    grown = msgspec.structs.replace(
        MANIFEST, vocabulary=vocabulary, adapter=FileRef("adapter.bin", "9" * 64, 99), judged=(2, 1)
    )
    card = model_card(grown, ABOUT)
    assert "What the fleet has learnt stands in `adapter.bin`, on top of the base." in card
    assert "does not judge what the fleet's devices learn together: emotion love." in card
    assert f"| `adapter.bin` | 99 | `{'9' * 64}` |" in card
    assert "fleet" not in model_card(MANIFEST, ABOUT).split("## What it was trained on")[0]


def test_it_says_what_the_release_is() -> None:
    """Conditions, training, privacy, lineage, files and licence, in this order."""
    card = model_card(MANIFEST, ABOUT)
    heads = [line for line in card.splitlines() if line.startswith("#")]
    assert heads == [
        "# avatars, generation 2, version 7",
        "## What it can be asked for",
        "## What it was trained on",
        "## What the golden gate measured",
        "## Privacy",
        "## Where it comes from",
        "## Files",
        "## Licence",
    ]
    for line in (
        'license: "apache-2.0"',
        "| emotion | happy, sad |",
        "Forty cohorts of six devices each.",
        "| oracle accuracy | 0.9712 |",
        "ε = 0.994 at δ = 1e-06 for one user over this generation, from 40 cohorts.",
        f"Made from the release `{'ab' * 32}` and 40 cohorts of devices.",
        f"| `base.bin` | 1,234 | `{'0' * 64}` |",
        "Apache-2.0.",
    ):
        assert line in card


def test_the_gate_s_numbers_are_the_gate_s() -> None:
    """Mean .01, std .06, n 36 at .05: the bound .0269 that the gate's own test works out by hand."""
    card = model_card(MANIFEST, ABOUT)
    assert "| emotion=happy | the release before | 36 | +0.010 | +0.027 | 0.05 | passes |" in card
    assert (
        "| emotion=sad | the first release of the generation | 36 | +0.200 | +0.217 | 0.1 | **fails**: lost |" in card
    )
    assert "| emotion=sad | gain on what was learnt | 1 | -0.400 | none | 0 | **fails**: only 1 golden items" in card


def test_no_noise_is_said_in_large_print() -> None:
    """ε = ∞ is never left out; 0 is only for what no user's data went into."""
    assert "**ε = ∞: no noise was added.**" in model_card(MANIFEST, About("x"))
    assert "ε = 0: no user's data" in model_card(MANIFEST, About("x", epsilon=0.0))
    assert "has not gone through the fleet's gate" in model_card(MANIFEST, About("x"))
    assert "The first of its line." in model_card(MANIFEST, About("x"))
    one = model_card(MANIFEST, About("x", parent="cd", cohorts=1, quality={"a": 1.0}))
    assert "and 1 cohort of devices." in one
    assert "| a | 1 |" in one


def test_names_stay_names() -> None:
    """Values that users or others chose bring no markup, no further line and no further cell into the card."""
    evil = "# x | y\n# Pwned <script>alert(1)</script> [link](http://evil)"
    manifest = Manifest(evil, 1, 1, 8, Vocabulary((Factor("f", (evil,)),)), 1, 1.0, *REFS)
    card = model_card(manifest, About(evil, licence=evil))
    assert [line[:7] for line in card.splitlines() if line.startswith("# ")] == [r"# \# x "]
    assert "<script>" not in card.replace(r"\<script>", "").split("---", 2)[2]
    assert r"| f | # x \| y # Pwned" in card
    assert len([line for line in card.splitlines() if line == "---"]) == 2


def test_measures_need_the_rule_that_judged_them() -> None:
    """A table without margins would say nothing."""
    with pytest.raises(UsageError, match="needs the policy"):
        model_card(MANIFEST, About("x", comparisons=ABOUT.comparisons))
    assert math.isinf(About("x").epsilon)
