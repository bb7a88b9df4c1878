"""The fleet demo's numbers: how much of everything there is, how long it takes, and what is expected of it.

``FULL`` is what a person runs; ``QUICK`` tells the same story for a continuous integration that has three minutes. What
comes back does not carry there: on the tiny release a step long enough to bring a new emotion harms some that are
known, and a gate turns it down. That is asked of ``FULL`` alone.
"""

from dataclasses import dataclass

EPSILON = 1.0
"""Of the second arm."""


@dataclass(frozen=True)
class Bars:
    """What must hold for exit code 0; shares of pictures between 0 and 1, the mean over all devices.

    ``own``: the new emotion that a device was shown; ``unseen``: the one that only others were shown; ``unseen_least``:
    the same on the worst device; ``old``: what the base knows; ``look``: hair and skin are still the user's;
    ``frame_ms``: the slowest picture of all. ``all_take``: every device's own gate must let the release in.
    """

    own: float = 0.9
    unseen: float = 0.85
    unseen_least: float = 0.5
    old: float = 0.9
    look: float = 0.9
    frame_ms: float = 2000.0
    all_take: bool = True


@dataclass(frozen=True)
class Script:
    """``steps`` of each device's training, ``at_once`` at a time; ``n_judged`` pictures of a device in an emotion.

    ``cohort`` is K and its least size; ``clip`` and ``norm_max`` are lengths of an update (an honest one has 18 to 22,
    of tiny 8 to 10: none is clipped). ``learn_rate`` is a device's: at the usual 1e-2 so few pictures harm the old by a
    tenth more, and teach the new no better. ``rate`` is the cloud's server learning rate: each emotion is known to half
    of the devices, so the mean of all is at least twice too short (ADR 0030).
    ``away_s``: how long a killed fog stays away, ``cut_s`` how long the line to the cloud is cut. The first release's
    golden set has ``n_known`` items of each emotion that the base knows, the fleet's own ``n_golden`` of each new one.
    """

    release: str
    steps: int
    n_judged: int
    n_known: int
    n_golden: int
    bars: Bars
    chapters: tuple[tuple[str, float], ...]
    at_once: int = 2
    cohort: int = 3
    clip: float = 40.0
    norm_max: float = 60.0
    rate: float = 2.75
    learn_rate: float = 7e-3
    away_s: float = 8.0
    cut_s: float = 25.0
    picture_every_s: float = 0.25

    @property
    def gathering(self) -> tuple[str, ...]:
        """The fogs' settings."""
        return (
            f"cohort={self.cohort}", f"cohort_min={self.cohort}", "rounds=2", "separation=1", "participations=2",
            f"clip={self.clip:g}", f"norm_max={self.norm_max:g}",
        )  # fmt: skip


def _chapters(
    learning: float, consolidating: float, returning: float, noise: float, judging: float
) -> tuple[tuple[str, float], ...]:
    return (
        ("A cloud, two fogs, six devices", 45),
        ("Each device meets its people", 12),
        ("Each learns alone; a fog dies, the cloud is out of reach", learning),
        ("Two intruders at the fog's door", 4),
        ("Six updates become a release", consolidating),
        ("The release comes back", returning),
        ("The same updates with noise, ε = 1", noise),
        ("An independent judge", judging),
        ("The report", 4),
    )


FULL = Script(
    "avatars", steps=160, n_judged=8, n_known=96, n_golden=48, bars=Bars(), chapters=_chapters(240, 65, 160, 35, 15)
)
QUICK = Script(
    "tiny", steps=200, n_judged=6, n_known=12, n_golden=10, clip=20.0, norm_max=30.0, rate=2.5, learn_rate=1e-2,
    cut_s=8.0, away_s=4.0, chapters=_chapters(70, 30, 20, 12, 5),
    bars=Bars(own=0.5, unseen=0.0, unseen_least=0.0, all_take=False),
)  # fmt: skip
