"""What Prometheus scrapes of a fog. No device's name stands here, only counts: of answers, refusals, cohorts, waiting.

ε stands among them: ``evergrove_fog_epsilon_budget`` is +Inf where no noise is added.
"""

import math
from collections import Counter
from collections.abc import Mapping

from evergrove import __version__
from evergrove.tiers.fog import State
from evergrove.web.metrics import Sample, add


class FogMeter:
    """Counts what one worker does, in memory, since its start."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.updates: Counter[str] = Counter()
        self.strangers: Counter[str] = Counter()
        self.n_bytes = 0

    def request(self, method: str, path: str, status: int) -> None:
        """One request was answered."""
        self.requests[method, path, status] += 1

    def update(self, outcome: str, n_bytes: int) -> None:
        """One update was counted, repeated, or refused with a reason."""
        self.updates[outcome] += 1
        self.n_bytes += n_bytes

    def stranger(self, reason: str) -> None:
        """One request was refused before anybody knew, or believed, who asks; it is counted nowhere else."""
        self.strangers[reason.replace(" ", "_")] += 1

    def text(self, state: State, epsilon: float | None, polls: int, lanes: Mapping[str, tuple[int, int]]) -> str:
        """Everything, as text. ``epsilon`` None: no bound; ``polls``: devices that wait for news now."""
        lines: list[str] = []
        plan = state.plan
        add(lines, "info", "gauge", "Version of the program.", [({"version": __version__}, 1)])
        answered: list[Sample] = [
            ({"method": m, "path": p, "status": str(s)}, n) for (m, p, s), n in sorted(self.requests.items())
        ]
        add(lines, "http_requests_total", "counter", "Requests answered.", answered)
        outcomes: list[Sample] = [({"outcome": name}, n) for name, n in sorted(self.updates.items())]
        add(lines, "fog_updates_total", "counter", "Updates answered by this worker, by outcome.", outcomes)
        strangers: list[Sample] = [({"reason": name}, n) for name, n in sorted(self.strangers.items())]
        add(lines, "fog_strangers_total", "counter", "Requests without a certificate that counts.", strangers)
        lines += [
            "# HELP evergrove_fog_epsilon_budget Of a generation; +Inf: no noise, no privacy from who reads sums.",
            "# TYPE evergrove_fog_epsilon_budget gauge",
            f"evergrove_fog_epsilon_budget {'+Inf' if epsilon is None else repr(epsilon)}",
        ]
        for name, words, value in (
            ("fog_update_bytes", "Bytes of updates received by this worker.", self.n_bytes),
            ("fog_generation", "The generation that is gathered; -1 for none.", plan.generation if plan else -1),
            ("fog_cohort", "Number of the open cohort.", state.number),
            ("fog_cohort_updates", "Updates in the open cohort.", state.n_updates),
            ("fog_cohort_size", "Updates that close a cohort.", plan.cohort if plan else math.nan),
            ("fog_cohorts_closed", "Cohorts that wait to be summed.", len(state.closed)),
            ("fog_sums_ready", "Sums that wait for the cloud.", len(state.ready)),
            ("fog_budget_spent", "1: the ε budget of the generation bears no cohort more.", int(state.spent)),
            ("fog_polls", "Devices that wait for news now.", polls),
        ):
            if value == value:
                add(lines, name, "gauge", words, [({}, value)])
        add(lines, "lane_places_taken", "gauge", "Requests carried out or waiting.",
            [({"lane": k}, v[0]) for k, v in lanes.items()])  # fmt: skip
        add(lines, "lane_places", "gauge", "Past this many, 429.", [({"lane": k}, v[1]) for k, v in lanes.items()])
        return "\n".join(lines) + "\n"
