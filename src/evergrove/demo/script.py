"""The demo's numbers: how long everything takes, what is expected of it, and which new emotions are met.

``FULL`` is what a person runs; ``QUICK`` tells the same story for a continuous integration that has a hundred seconds.
"""

from dataclasses import dataclass

FACTOR = "emotion"
"""The factor whose new values are learnt."""
NEW = ("love", "dizzy")
"""What no base, tuning or pseudo-task has ever seen."""
STRATEGIES = ("naive", "evergrove")


@dataclass(frozen=True)
class Bars:
    """What must hold for exit code 0; accuracies are shares between 0 and 1."""

    evergrove_old: float = 0.97
    evergrove_new: float = 0.92
    naive_old: float = 0.60


@dataclass(frozen=True)
class Script:
    """``n_judged`` pictures per emotion at both ends, ``n_glimpsed`` at every ``glimpse_every`` steps on the way.

    ``kills`` are (share of the training, what is killed); ``chapters`` are titles with the seconds that each takes on
    two idle cores, from which the time to go is estimated.
    """

    n_observations: int
    steps: int
    checkpoint_every: int
    glimpse_every: int
    n_judged: int
    n_glimpsed: int
    n_pictures: int
    poison_steps: int
    bars: Bars
    chapters: tuple[tuple[str, float], ...]
    kills: tuple[tuple[float, str], ...] = ((0.3, "trainer"), (0.65, "agent"))
    picture_every_s: float = 0.25


def _chapters(observing: float, learning: float, offering: float, judging: float) -> tuple[tuple[str, float], ...]:
    return (
        ("What this machine offers", 1),
        ("A first picture", 4),
        ("A stream of pictures", observing),
        ("Two ways to learn, side by side", learning),
        ("Four bad adapters knock at the gate", offering),
        ("An independent judge", judging),
        ("The report", 5),
    )


FULL = Script(
    n_observations=400,
    steps=350,
    checkpoint_every=25,
    glimpse_every=50,
    n_judged=40,
    n_glimpsed=16,
    n_pictures=200,
    poison_steps=60,
    bars=Bars(),
    chapters=_chapters(20, 130, 35, 30),
)
QUICK = Script(
    n_observations=200,
    steps=180,
    checkpoint_every=20,
    glimpse_every=60,
    n_judged=16,
    n_glimpsed=8,
    n_pictures=80,
    poison_steps=30,
    bars=Bars(evergrove_old=0.95, evergrove_new=0.70),
    chapters=_chapters(10, 45, 20, 8),
)
