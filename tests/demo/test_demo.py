"""The parts of the demo that can be checked without telling the whole story."""

import copy
import io
import json
import tomllib

import numpy as np
import pytest
import torch

from evergrove.adapters.release import open_release
from evergrove.core import config, events
from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import EvergroveError, InvalidArtefact
from evergrove.demo import record, saboteurs, verdict
from evergrove.demo.judge import Judge
from evergrove.demo.narrator import Narrator
from evergrove.demo.script import FULL, QUICK
from evergrove.demo.wires import network_sockets
from evergrove.learn.adapter import Adapter, Basis, attach, blank_adapter
from evergrove.learn.adapter_file import adapter_of_bytes, load_adapter, save_adapter
from evergrove.learn.base import load_base
from evergrove.learn.basis import load_basis

# The verdict

GOOD = {
    "bars": {"evergrove_old": 0.97, "evergrove_new": 0.92, "naive_old": 0.6},
    "learning": {
        "evergrove": {
            "old_accuracy": 0.99,
            "new_accuracy": 0.95,
            "gate": "accept",
            "steps": 250,
            "adapter_bytes": 184_000,
        },
        "naive": {"old_accuracy": 0.1, "new_accuracy": 0.9, "gate": "reject", "steps": 250, "lost": ["happy", "sad"]},
    },
    "gate": {"injected": 2, "refused": 2, "cases": {"nan": {"verdict": "refused"}, "no-op": {"verdict": "rejected"}}},
    "recovery": {"kills": 2, "recovered": 2, "records_lost": 0},
    "stream": {"observed": 400, "kept": 60, "same_for_both": True},
    "inference": {
        "p50_ms": 20.0,
        "p99_ms": 25.0,
        "n": 200,
        "learning_p50_ms": 22.0,
        "learning_p99_ms": 31.0,
        "learning_n": 90,
    },
    "network": {"sockets_seen": 0},
}


def test_a_run_that_holds_says_so_in_four_lines():
    """Numbers in words; no line speaks of a missed bar."""
    claims = verdict.claims(GOOD)
    assert [claim.holds for claim in claims] == [True] * 4
    assert claims[0].text == (
        "Evergrove learnt love and dizzy (95% right) and kept what it knew (99% right) in 184 kB; "
        "the golden gate accepted it."
    )
    assert claims[1].text.endswith("the golden gate rejected it for happy and sad.")
    assert "2 of 2 bad adapters refused; 2 of 2 kills recovered" in claims[2].text
    assert "Kept 60 of 400 observations; a picture takes 20 ms (p99 25)" in claims[3].text


@pytest.mark.parametrize(
    ("path", "value", "line", "words"),
    [
        ("learning.evergrove.old_accuracy", 0.96, 0, "old 0.96 < 0.97"),
        ("learning.evergrove.new_accuracy", 0.9, 0, "new 0.90 < 0.92"),
        ("learning.evergrove.gate", "reject", 0, "the gate said reject"),
        ("learning.naive.old_accuracy", 0.61, 1, "old 0.61 > 0.60"),
        ("learning.naive.gate", "accept", 1, "the gate said accept"),
        ("learning.naive.steps", 249, 1, "not the same number of steps"),
        ("stream.same_for_both", False, 1, "kept different pictures"),
        ("gate.cases.no-op.verdict", "accepted", 2, "served: no-op"),
        ("recovery.recovered", 1, 2, "1 not recovered"),
        ("recovery.records_lost", 3, 2, "3 kept observations lost"),
        ("stream.kept", 400, 3, "400 of 400 kept"),
        ("inference.learning_n", 0, 3, "no picture was timed"),
        ("network.sockets_seen", 1, 3, "held a network socket"),
    ],
)
def test_every_missed_bar_is_named_on_its_line(path, value, line, words):
    """One number is made worse; exactly its line fails and says why."""
    numbers = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place = numbers
    for key in parents:
        place = place[key]
    place[last] = value
    if last == "verdict":
        numbers["gate"]["refused"] = 1
    claims = verdict.claims(numbers)
    assert [claim.holds for claim in claims] == [i != line for i in range(4)]
    assert words in claims[line].text
    assert "MISSED" in claims[line].text


def test_both_scripts_tell_the_same_story():
    """The same chapters; the quick one is shorter throughout."""
    assert [title for title, _ in QUICK.chapters] == [title for title, _ in FULL.chapters]
    assert QUICK.kills == FULL.kills
    assert QUICK.steps < FULL.steps
    assert sum(s for _, s in FULL.chapters) <= 300
    assert sum(s for _, s in QUICK.chapters) <= 100


# The narrator


def test_the_narrator_counts_down():
    """Chapters are numbered; the time to go shrinks as they are done."""
    out = io.StringIO()
    narrator = Narrator((("One", 30.0), ("Two", 60.0)), out)
    narrator.chapter()
    first = narrator.to_go_s()
    narrator.tell("something happened")
    narrator.progress(0.5, "half of it")
    narrator.progress(0.6, "not said: too soon")
    narrator.chapter()
    narrator.progress(0.5, "nearly")
    assert first == pytest.approx(90.0)
    assert narrator.to_go_s() < 60.0
    lines = out.getvalue().splitlines()
    assert lines[1].startswith("1/2  One")
    assert lines[2] == "     something happened"
    assert "half of it" in lines[3]
    assert not any("too soon" in line for line in lines)


# What a run leaves


def test_a_run_gets_a_folder_of_its_own_and_latest_leads_to_it(tmp_path):
    """Two runs within one second do not share a folder."""
    first, second = record.new_run(tmp_path, "demo"), record.new_run(tmp_path, "demo")
    assert first != second
    record.point_latest(first)
    record.point_latest(second)
    assert (tmp_path / "latest").resolve() == second.resolve()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    """A file stands where the runs should go."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(EvergroveError, match="choose another --runs"):
        record.new_run(tmp_path / "runs", "demo")


def test_events_of_all_devices_stand_in_order_of_time(tmp_path):
    """Two logs, interleaved; every line is JSON with the device's name."""
    logs = {
        "a": [events.Stamped(1.0, events.TimePassed()), events.Stamped(3.0, events.TimePassed())],
        "b": [events.Stamped(2.0, events.ObservationRefused(5, "blank"))],
    }
    record.write_events(tmp_path / "events.jsonl", logs)
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["device"] for line in lines] == ["a", "b", "a"]
    assert lines[1]["event"] == {"kind": "observation_refused", "n_bytes": 5, "reason": "blank"}


def test_the_resolved_configuration_is_valid_and_names_the_differences(tmp_path):
    """It reads back as what it was, and says where the other device differs."""
    ours, theirs = config.load("seed = 3"), config.load("seed = 3\n[learn]\nstrategy = 'naive'")
    record.write_config(tmp_path / "c.toml", {"naive": theirs, "evergrove": ours})
    text = (tmp_path / "c.toml").read_text()
    assert config.load(text) == ours
    assert tomllib.loads(text)["seed"] == 3
    assert "#   learn.strategy = 'naive'" in text


def test_a_ledger_without_lines_says_so(tmp_path):
    """A header, and how many network sockets were seen."""
    record.write_ledger(tmp_path / "ledger.jsonl", 0)
    (header,) = (tmp_path / "ledger.jsonl").read_text().splitlines()
    assert json.loads(header)["network_sockets_seen"] == 0


def test_network_sockets_are_counted_and_local_ones_are_not(tmp_path):
    """A process with one TCP socket, one local socket and a file; another process is gone."""
    (tmp_path / "net").mkdir()
    row = "0: 0100007F:1F90 00000000:0000 0A 0:0 00:0 0 0 0 4711 1"
    (tmp_path / "net" / "tcp").write_text(f"header\n{row}\n")
    fd = tmp_path / "42" / "fd"
    fd.mkdir(parents=True)
    for i, target in enumerate(("socket:[4711]", "socket:[9]", "/etc/hosts")):
        (fd / str(i)).symlink_to(target)
    assert network_sockets([42, 43], tmp_path) == 1
    assert network_sockets([43], tmp_path) == 0
    assert network_sockets([42], tmp_path / "nowhere") is None


# Bad adapters


@pytest.fixture(scope="module")
def tiny():
    """The network and A of the tiny release."""
    release = open_release("tiny")
    manifest = release.manifest
    basis = load_basis(release.path_of(manifest.basis), manifest.base.sha256, manifest.scale)
    return load_base(release.folder), basis, manifest.vocabulary


@pytest.fixture
def good(tiny, tmp_path):
    """An adapter's file that belongs to the tiny release."""
    model, basis, vocabulary = tiny
    adapter: Adapter = blank_adapter(model, basis, grown(vocabulary))
    path = tmp_path / "good.safetensors"
    save_adapter(adapter, path)
    return path


def grown(vocabulary: Vocabulary) -> Vocabulary:
    """With one more value of the first factor."""
    return vocabulary.extend({vocabulary.names[0]: "brand-new"})


def test_broken_numbers_are_found_before_anything_is_measured(tiny, good, tmp_path):
    """One NaN; the file is refused by name of the layer."""
    model, basis, _ = tiny
    bad = saboteurs.broken_numbers(good, tmp_path / "nan.safetensors")
    with pytest.raises(InvalidArtefact, match="NaN"):
        load_adapter(bad.path, model, basis)


def test_a_wrong_base_is_found_before_anything_is_measured(tiny, good, tmp_path):
    """The numbers are sound, the base's hash is not this one's."""
    model, basis, _ = tiny
    bad = saboteurs.wrong_base(good, tmp_path / "base.safetensors")
    adapter_of_bytes(bad.path.read_bytes())
    with pytest.raises(InvalidArtefact, match="base"):
        load_adapter(bad.path, model, basis)


def test_a_no_op_is_a_sound_file(tiny, good, tmp_path):
    """Nothing is wrong with it but that it changes nothing: that is for the gate to say."""
    model, basis, _ = tiny
    bad = saboteurs.no_op(good, tmp_path / "no-op.safetensors", serves=True)
    same = load_adapter(bad.path, model, basis)
    assert all(np.array_equal(b, load_adapter(good, model, basis).b[name]) for name, b in same.b.items())


def test_norms_are_compared_over_all_layers(tiny):
    """Twice the numbers, twice the norm."""
    import dataclasses

    model, basis, vocabulary = tiny
    blank: Adapter = blank_adapter(model, basis, vocabulary)
    one = dataclasses.replace(blank, b={name: b + 1.0 for name, b in blank.b.items()})
    two = dataclasses.replace(blank, b={name: b + 2.0 for name, b in blank.b.items()})
    assert saboteurs.norm_ratio(two, one) == pytest.approx(2.0)
    assert isinstance(basis, Basis)


# The judge


def test_the_judge_counts_what_the_oracle_reads(tiny):
    """An oracle that reads everything as happy: happy is right, angry never, and a new emotion is not known at all."""
    model, _, vocabulary = tiny
    judge = Judge(open_release("tiny"), SaysAlways(vocabulary, "happy"), seed=0)
    judged = judge.judge(None, ["happy", "angry", "brand-new"], 3)
    assert judged.right == {"happy": 1.0, "angry": 0.0}
    assert judged.mistaken == {"happy": {}, "angry": {"happy": 3}}
    assert judged.mean(["happy", "angry", "brand-new"]) == pytest.approx(1 / 3)
    assert [picture.shape for picture in judged.pictures["angry"]] == [(32, 32, 3)] * 3
    again = judge.judge(None, ["happy", "angry"], 3)
    assert np.array_equal(again.pictures["angry"][2], judged.pictures["angry"][2])
    assert isinstance(model, type(judge.model))


def test_a_checkpoint_becomes_the_adapter_that_it_was(tiny):
    """The values of a trainer's checkpoint, put back into an adapter of the wider vocabulary."""
    model, basis, vocabulary = tiny
    judge = Judge(open_release("tiny"), SaysAlways(vocabulary, "happy"), seed=0)
    wider = grown(vocabulary)
    attached = attach(model, basis, blank_adapter(model, basis, wider))
    tensors = {f"value.{name}": torch.full_like(p, 0.25) for name, p in attached.parameters.items()}
    adapter = judge.unfinished(tensors, wider)
    assert adapter.vocabulary == wider
    assert all(float(b.min()) == float(b.max()) == 0.25 for b in (*adapter.b.values(), *adapter.rows.values()))


class SaysAlways:
    """An oracle that reads one emotion in every picture."""

    def __init__(self, vocabulary: Vocabulary, emotion: str) -> None:
        self.vocabulary = vocabulary
        self.code = vocabulary.encode({"emotion": emotion})

    def read(self, images: np.ndarray) -> np.ndarray:
        """The same code for every picture."""
        return np.array([self.code] * len(images), np.int16)
