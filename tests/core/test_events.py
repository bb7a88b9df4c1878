"""Events: what is written is read back; what is not understood is refused with the path to the fault."""

import typing

import msgspec
import pytest

from evergrove.core import effects, events, messages
from evergrove.core.errors import CorruptState
from evergrove.core.measures import Comparison, Facts
from evergrove.core.release import FileRef, Manifest, sha256_hex
from evergrove.core.rng import seed_of, stream

EXAMPLES: list[events.Event] = [
    events.DeviceInitialised("d", "r", (2, 3), True, 7),
    events.DeviceInitialised("d", "r", (2, 3), True, 7, (2, 2)),
    events.ObservationMeasured("o", (1, 2), 500, Facts(False, None, None)),
    events.CandidateMeasured("j", "c", 0.5, (Comparison("gain", (1, 0), 12, -0.1, 0.02),), 1.5),
    events.GateJudged("j", "reject", 1.0, (("release", (1, 0)),), "lost"),
    events.VersionActivated(None, 3),
]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda e: type(e).__name__)
def test_an_event_survives_its_encoding(event: events.Event) -> None:
    """decode(encode(e)) == e, type and all."""
    assert events.decode(events.encode(event)) == event


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b'{"kind":"moon_landed"}', r"\$\.kind"),
        (b'{"kind":"time_passed","by":1}', "unknown field `by`"),
        (b'{"kind":"agent_started","software":1}', r"\$\.software"),
        (b"{", "truncated"),
    ],
)
def test_what_is_not_understood_is_refused(text: bytes, path: str) -> None:
    """Unknown kinds, unknown fields, wrong types and cut-off lines, each with its path."""
    with pytest.raises(CorruptState, match=path):
        events.decode(text)


def test_every_kind_has_a_tag_of_its_own_and_stays_on_the_device() -> None:
    """Tags are what a log is read by, so no two are the same; all of a device's facts are local."""
    for union in (events.Event, messages.Request, messages.Reply):
        kinds = typing.get_args(union)
        tags = [kind.__struct_config__.tag for kind in kinds]
        assert len(set(tags)) == len(tags) > 4
    assert {kind.scope for kind in typing.get_args(events.Event)} == {"local"}
    assert {c.__struct_config__.tag for c in effects.Effect.__subclasses__()} >= {"emit", "activate_version"}


def test_named_streams_do_not_disturb_each_other() -> None:
    """The same name gives the same numbers; another name, or another seed, gives others."""
    first = stream(1, "novelty", 4).random(3).tolist()
    assert stream(1, "novelty", 4).random(3).tolist() == first
    assert stream(1, "novelty", 5).random(3).tolist() != first
    assert seed_of(2, "novelty", 4) != seed_of(1, "novelty", 4)
    assert 0 <= seed_of(0) < 2**63


def test_a_manifest_lists_the_files_that_it_names() -> None:
    """Four files always, teacher and Fisher where there are any."""
    ref = FileRef("x", sha256_hex(b""), 0)
    manifest = Manifest("a", 1, 1, 8, typing.cast(typing.Any, None), 4, 1.0, ref, ref, ref, ref)
    assert len(manifest.files()) == 4
    grown = msgspec.structs.replace(manifest, adapter=FileRef("adapter", sha256_hex(b"a"), 1))
    assert grown.files() == [*manifest.files(), grown.adapter]
    assert (manifest.alone, grown.alone) == (ref.sha256, sha256_hex(b"a"))
