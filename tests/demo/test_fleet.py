"""The parts of the fleet's demo that can be checked without a grove of processes."""

import copy
import socket
import threading

import numpy as np
import pytest

from evergrove.adapters.release import open_release
from evergrove.adapters.release_write import grow
from evergrove.core import cloud_settings
from evergrove.core.errors import UpdateRefused
from evergrove.demo.fleet import noise, rogues, verdict
from evergrove.demo.fleet.cable import Cable
from evergrove.demo.fleet.cast import FACTOR, FOGS, NEW, cast, golden, held_back
from evergrove.demo.fleet.rogues import Attempt
from evergrove.demo.fleet.script import EPSILON, FULL, QUICK, Bars
from evergrove.rules import params

# ---- the line to the cloud -------------------------------------------------------------------------------------------


@pytest.fixture
def echo():
    """A server that sends back what it gets; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    line, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(line,), daemon=True).start()

        def answer(line: socket.socket) -> None:
            with line:
                while data := line.recv(4096):
                    line.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def say(line: socket.socket, words: bytes) -> bytes:
    """Sends, and waits for as much to come back."""
    line.settimeout(5.0)
    line.sendall(words)
    heard = b""
    while len(heard) < len(words):
        part = line.recv(4096)
        if not part:
            break
        heard += part
    return heard


def test_a_cable_passes_on_counts_breaks_and_is_whole_again(echo):
    """While cut, a line that was open ends and a new one is refused; afterwards new ones get through."""
    with Cable(echo) as cable:
        line = socket.create_connection(("127.0.0.1", cable.port))
        assert say(line, b"hello") == b"hello"
        cable.cut()
        line.settimeout(5.0)
        assert line.recv(10) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", cable.port))
        cable.mend()
        with socket.create_connection(("127.0.0.1", cable.port)) as again:
            assert say(again, b"x" * 100_000) == b"x" * 100_000
        assert (cable.n_up, cable.n_down) == (100_005, 100_005)
        line.close()


# ---- who is in it ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["tiny", "avatars"])
def release(request, tmp_path_factory):
    """A fleet's first release."""
    folder = tmp_path_factory.mktemp("fleet") / "release"
    return grow(open_release(request.param), folder, [{FACTOR: emotion} for emotion in NEW])


def test_nobody_is_shown_the_other_emotion_or_anything_that_is_held_back(release):
    """Each of six sees one of two emotions, in looks of its own; both fogs have both; the golden set is nobody's."""
    roles, vocabulary = cast(release, 0), release.manifest.vocabulary
    assert len({role.name for role in roles}) == 6
    for home in FOGS:
        assert {role.emotion for role in roles if role.home == home} == set(NEW)
    kept = {image.tobytes() for image in golden(release, 20).images}
    for role in roles:
        shown = [vocabulary.decode(tuple(int(n) for n in code)) for code in role.shown.codes]
        assert len(shown) >= 20
        assert {one[FACTOR] for one in shown} == {role.emotion} == set(NEW) - {role.unseen}
        assert {one[role.factor] for one in shown} == set(role.values)
        if release.manifest.name == "avatars":
            assert not kept & {image.tobytes() for image in role.shown.images}
    assert not np.array_equal(cast(release, 1)[0].shown.images, roles[0].shown.images)


def test_the_golden_set_is_even_and_held_back(release):
    """As many of either emotion; its rows are those that no device is shown."""
    pack = golden(release, 10)
    numbers = [release.manifest.vocabulary.encode({FACTOR: emotion})[0] for emotion in NEW]
    assert [(pack.codes[:, 0] == n).sum() for n in numbers] == [10, 10]
    assert held_back(release.manifest.name, 760).sum() == (240 if release.manifest.name == "avatars" else 152)


# ---- intruders -------------------------------------------------------------------------------------------------------


def test_a_poisoners_bytes_are_an_update_in_form_and_poison_in_content(release):
    """What an honest encoder would not write: read back, the numbers are there, and NaN is what stops it."""
    manifest = release.manifest
    layout = params.layout_of(manifest, release.read(manifest.base), release.read(manifest.basis))
    vector = np.linspace(-1000, 1000, layout.n_numbers).astype(np.float32)
    assert np.array_equal(params.decode(rogues.raw(vector, layout), layout), vector)
    vector[7] = np.nan
    with pytest.raises(UpdateRefused) as caught:
        params.decode(rogues.raw(vector, layout), layout)
    assert caught.value.reason == "not finite"


def test_an_attempt_is_refused_for_its_own_reason_or_not_at_all():
    """Another reason than the expected one does not count as refused, and being let in does not either."""
    reasons = ("not finite", "malformed", "")
    made = [Attempt("mallory", "NaN", "not finite", reason, "…") for reason in reasons]
    assert [one.refused for one in made] == [True, False, False]
    assert rogues.refused(made) == 1


# ---- the verdict -----------------------------------------------------------------------------------------------------

GOOD = {
    "bars": {name: getattr(Bars(), name) for name in Bars.__dataclass_fields__},
    "devices": {name: {"own_gate": {"verdict": "accepted"}} for name in "abcdef"},
    "means": {
        "alone": {"own": 0.99, "unseen": 0.01},
        "after": {"own": 0.97, "unseen": 0.93, "unseen_least": 0.75, "old": 0.98, "look": 0.96},
    },
    "release": {"version": 2, "taken_by": 6},
    "frames": {"pictures": 900, "failed": 0, "slowest_ms": 80.0},
    "faults": [
        {"what": "fog north is dead", "seconds": 9.0, "pictures": 30, "slowest_ms": 60.0},
        {"what": "the cloud is cut off", "seconds": 25.0, "pictures": 90, "slowest_ms": 80.0},
    ],
    "intruders": [{"who": "mallory", "what": "NaN", "reason": "not finite", "refused": True}],
    "bytes": {"raw_media": 0, "by_kind": {"update": 1_700_000, "terms_request": 72}},
    "privacy": {"protection": "NO NOISE: ε = ∞."},
    "with_noise": {"verdict": "reject", "epsilon": 0.99, "noise_over_clip": 1500.0},
}


def test_a_run_that_holds_says_so_in_six_lines():
    """Numbers in words; no line speaks of a missed bar."""
    claims = verdict.claims(GOOD)
    assert [claim.holds for claim in claims] == [True] * 6
    assert "93% of what it never saw is right (the worst device 75%)" in claims[1].text
    assert "ε = ∞: six devices cannot be private. Raw media sent: 0 B" in claims[4].text


@pytest.mark.parametrize(
    ("path", "value", "line", "words"),
    [
        ("means.alone.own", 0.5, 0, "own 0.50 < 0.90"),
        ("devices.a.own_gate.verdict", "rejected", 0, "5 of 6 passed"),
        ("means.after.unseen", 0.5, 1, "unseen 0.50 < 0.85"),
        ("means.after.unseen_least", 0.0, 1, "unseen_least 0.00 < 0.50"),
        ("means.after.old", 0.5, 1, "old 0.50 < 0.90"),
        ("means.after.look", 0.5, 1, "look 0.50 < 0.90"),
        ("release.taken_by", 5, 1, "5 of 6 devices took"),
        ("frames.failed", 1, 2, "1 pictures failed"),
        ("frames.slowest_ms", 9000.0, 2, "a picture took 9000 ms"),
        ("faults.0.pictures", 0, 2, "no picture was asked for"),
        ("intruders.0.refused", False, 3, "mallory: NaN"),
        ("bytes.raw_media", 5000, 4, "5000 B of raw media"),
        ("privacy.protection", "ε = 1", 4, "were not told"),
        ("with_noise.verdict", "accept", 5, "gate said accept"),
        ("with_noise.epsilon", 1.2, 5, "ε = 1.200"),
    ],
)
def test_every_missed_bar_is_named_on_its_line(path, value, line, words):
    """One number is made worse; exactly its line fails and says why."""
    numbers = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place = numbers
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[last] = value
    claims = verdict.claims(numbers)
    assert [claim.holds for claim in claims] == [i != line for i in range(6)]
    assert words in claims[line].text


def test_a_quick_run_does_not_claim_what_its_gates_turned_down():
    """On the tiny release nobody may take it; the line says so, and does not fail."""
    numbers = copy.deepcopy(GOOD)
    numbers["bars"] |= {"all_take": False, "unseen": 0.0, "unseen_least": 0.0}
    numbers["release"]["taken_by"] = 1
    numbers["means"]["after"]["unseen"] = 0.0
    claim = verdict.claims(numbers)[1]
    assert claim.holds
    assert claim.text.startswith("A release came back to every device, and 5 of 6 turned it down by their own gates")
    numbers["release"] |= {"taken_by": 0, "version": 0}
    assert verdict.claims(numbers)[1].text.startswith("The fleet's gate refused what came of the six")
    numbers["bars"]["all_take"] = True
    assert not verdict.claims(numbers)[1].holds


def test_both_scripts_tell_the_same_story():
    """The same chapters; the quick one is shorter throughout, and asks for less."""
    assert [title for title, _ in QUICK.chapters] == [title for title, _ in FULL.chapters]
    assert sum(s for _, s in FULL.chapters) <= 600
    assert sum(s for _, s in QUICK.chapters) <= 240
    assert FULL.clip < FULL.norm_max


def test_the_clouds_settings_are_settings():
    """What the story writes into cloud.toml is understood, for the fleet and for its private twin."""
    for script, clip, epsilon in ((FULL, FULL.clip, 0.0), (QUICK, 8.5, EPSILON)):
        settings = cloud_settings.load(noise.settings_of(script, clip, epsilon))
        assert (settings.gather.clip, settings.gather.epsilon, settings.gather.cohort) == (clip, epsilon, 3)
        assert (settings.consolidate.cohorts, settings.consolidate.rate) == (2, script.rate)
