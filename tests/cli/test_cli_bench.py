"""``evergrove bench device``: that every number is there and makes sense; how large they are is for the bench."""

from pathlib import Path


def test_everything_is_measured_and_counted(release: Path, evergrove) -> None:  # type: ignore[no-untyped-def]
    """A few of each, on the small release: the parts add up, the agent imports no torch, and each number has its n."""
    said = evergrove("bench", "device", "--quick", "--release", release, "--json")
    assert said.code == 0, said.err
    found = said.json
    assert found["quick"] is True
    assert found["threads"] == 1
    assert found["n_parameters"] == 48_016
    for name in ("generate", "load", "stage", "swap"):
        assert found[name]["n"] >= 12
        assert 0 < found[name]["p50"] <= found[name]["p99"] <= found[name]["max"]
    parts = found["novelty"]
    assert parts["total"]["p50"] >= max(parts[part]["p50"] for part in ("decode", "measure", "decide"))
    assert set(found["training"]) == {"adapter", "objective"}
    assert all(ratio["mine"] > 0 and ratio["n"] == 2 for ratio in found["training"].values())
    assert found["agent"]["imported_mb"]["p50"] < 200
    assert [bar["name"] for bar in found["bars"]] == ["swap, p99", "generate, p50", "agent at work, resident"]
    assert all(bar["met"] == (bar["value"] <= bar["limit"]) for bar in found["bars"])


def test_a_race_names_what_there_is(evergrove) -> None:  # type: ignore[no-untyped-def]
    """An unknown stream or strategy is a usage error that lists the known ones; nothing is trained for it."""
    for words, known in ((("--stream", "S9"), "S1, S2, S3, S4, T1"), (("--strategies", "magic"), "rank1+gd")):
        said = evergrove("bench", "forgetting", *words)
        assert said.code == 2
        assert known in said.err
