"""What a simulated grove is made of beside its devices, and what goes wrong in it: the ``[grove]`` of a scenario."""

from evergrove.core.config import Section
from evergrove.core.sections import Gathering
from evergrove.sim.faults import Channel, Clock

FOGS_MAX = 4


class Kills(Section, frozen=True):
    """How often a process of each kind is killed, per day and process; at a random write of its, or between two steps.

    ``writes_max``: the kill falls into one of the next so many writes, if not at once.
    """

    device_per_day: float = 0.0
    fog_per_day: float = 0.0
    cloud_per_day: float = 0.0
    superlink_per_day: float = 0.0
    writes_max: int = 24
    down_s: float = 120.0


class Consolidating(Section, frozen=True):
    """When the cloud consolidates, and how its releases go out: keys of ``cloud.toml``."""

    cohorts: int = 4
    wait_s: float = 7200.0
    stage_s: float = 14_400.0
    work_s: float = 300.0
    """What a worker takes on average."""
    lost_share: float = 0.1
    """Part of the workers that die over it."""
    harm_share: float = 0.2
    """Part of the candidates that lose a condition, which the gate must see."""


class Grove(Section, frozen=True):
    """Fogs and a cloud around a fleet; 0 ``fogs``: there is no grove. ``epsilon`` 0: no noise. Devices take turns among
    the fogs.

    ``air`` is between devices and fogs, ``link`` between fogs and the SuperLink; ``tampered_share`` of what devices
    fetch is damaged on its way, or comes from somebody else's repository. Clocks of fogs and cloud lie as ``clock``
    says.
    """

    fogs: int = 0
    epsilon: float = 0.0
    gathering: Gathering = Gathering(cohort=3, cohort_min=1, wait_s=3600.0, rounds=64, separation=1, participations=16)
    consolidating: Consolidating = Consolidating()
    kills: Kills = Kills()
    air: Channel = Channel(jitter_s=30.0)
    link: Channel = Channel(delay_s=1.0, jitter_s=5.0)
    tampered_share: float = 0.0
    clock: Clock = Clock()
    look_s: float = 600.0
    """Between two looks of a fog, the cloud, the collector or the person at what there is to do."""
    poll_s: float = 1800.0
    """Between two looks of a device for news of releases."""

    def cloud_toml(self) -> str:
        """The settings of the cloud."""
        how, plan = self.consolidating, self.gathering
        return (
            f"[gather]\ncohort = {plan.cohort}\nclip = {plan.clip}\nepsilon = {self.epsilon}\n"
            f"[consolidate]\ncohorts = {how.cohorts}\nwait_s = {how.wait_s}\nreconcile_steps = 0\n"
            "[gate]\nneeds_gain = false\ncandidates_max = 200\n"
            f"[rollout]\npercents = [50.0, 100.0]\nshadow = 0.0\nerrors_share = 0.6\nreports_min = 1\n"
            f"stage_s = {how.stage_s}\n"
        )
