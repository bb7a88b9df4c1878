"""What Prometheus scrapes: a few counters and gauges in its text format (version 0.0.4).

No name of a condition stands here: a condition that a user invented is private, its name included, and a scraper sends
what it reads to other machines.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

from evergrove import __version__
from evergrove.core.messages import Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Of the histogram of what drawing one picture takes."""
Sample = tuple[Mapping[str, str], float]


class Meter:
    """Counts what the API does, in memory, since its start."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.frames: Counter[str] = Counter()
        self._buckets = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def request(self, method: str, path: str, status: int) -> None:
        """One request was answered. ``path`` is one of the API's own: a label must not be a stranger's choice."""
        self.requests[method, path, status] += 1

    def picture(self, latency_s: float) -> None:
        """One picture was drawn."""
        self._buckets[bisect_left(BOUNDS_S, latency_s)] += 1
        self._sum_s += latency_s

    def text(self, places: Mapping[str, tuple[int, int]], status: Status | None) -> str:
        """Everything, as text. ``places``: taken and all places of each lane; ``status`` None: the agent is away."""
        lines: list[str] = []
        add(lines, "info", "gauge", "Version of the program.", [({"version": __version__}, 1)])
        add(
            lines,
            "http_requests_total",
            "counter",
            "Requests answered.",
            [({"method": m, "path": p, "status": str(s)}, n) for (m, p, s), n in sorted(self.requests.items())],
        )
        taken = [({"lane": name}, float(now)) for name, (now, _) in places.items()]
        add(lines, "lane_places_taken", "gauge", "Requests drawn, carried out or waiting.", taken)
        add(lines, "lane_places", "gauge", "Past this many, 429.", [({"lane": k}, v[1]) for k, v in places.items()])
        frames = [({"outcome": name}, float(self.frames[name])) for name in ("on_time", "late", "missed")]
        add(lines, "stream_frames_total", "counter", "Frames of video streams; missed: beats without one.", frames)
        self._histogram(lines)
        add(lines, "agent_up", "gauge", "Whether the device's agent answers.", [({}, status is not None)])
        if status is not None:
            _device(lines, status)
        return "\n".join(lines) + "\n"

    def _histogram(self, lines: list[str]) -> None:
        name, total = "evergrove_generate_seconds", 0
        lines += [f"# HELP {name} Drawing one picture.", f"# TYPE {name} histogram"]
        for bound, n in zip((*map(str, BOUNDS_S), "+Inf"), self._buckets, strict=True):
            total += n
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        lines += [f"{name}_sum {self._sum_s:.6f}", f"{name}_count {total}"]


def _device(lines: list[str], now: Status) -> None:
    """What the device's own status says, as numbers."""
    dropped = [({"reason": reason}, float(n)) for reason, n in sorted(now.dropped.items())]
    add(lines, "observations_total", "counter", "Observations seen.", [({}, now.observed)])
    add(lines, "observations_kept_total", "counter", "Observations kept.", [({}, now.kept)])
    add(lines, "observations_dropped_total", "counter", "Observations dropped, by reason.", dropped)
    add(lines, "replay_records", "gauge", "Records in the replay buffer.", [({}, sum(now.records.values()))])
    add(lines, "waiting_observations", "gauge", "Kept and not learnt yet.", [({}, now.waiting)])
    add(lines, "version_sequence", "gauge", "Promotions and rollbacks so far.", [({}, now.sequence)])
    add(lines, "on_probation", "gauge", "Whether the version is new on trial.", [({}, now.on_probation)])
    add(lines, "job_running", "gauge", "Whether a learning job is under way.", [({}, now.job is not None)])
    add(lines, "gate_looks", "gauge", "Updates judged with this golden set.", [({}, now.gate_looks)])
    add(lines, "gate_looks_max", "gauge", "Looks that the golden set allows.", [({}, now.gate_looks_max)])
    add(lines, "warnings", "gauge", "Warnings in the device's status.", [({}, len(now.warnings))])


def add(lines: list[str], name: str, kind: str, words: str, samples: Iterable[Sample]) -> None:
    """One metric, with a sample for each set of labels."""
    lines += [f"# HELP evergrove_{name} {words}", f"# TYPE evergrove_{name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        number = str(int(value)) if value == int(value) else repr(value)
        lines.append(f"evergrove_{name}{{{inside}}} {number}" if inside else f"evergrove_{name} {number}")


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
