"""``evergrove status CLOUD``: how a cloud stands."""

from pathlib import Path
from typing import TYPE_CHECKING

from evergrove.cli import show

if TYPE_CHECKING:
    from evergrove.rules.privacy.quantile import Proposal
    from evergrove.runtime.cloud_view import CloudView

WAIT_S = 30.0


def is_cloud(folder: Path) -> bool:
    """Whether a folder is a cloud's: it has a repository of releases."""
    return (folder / "repository" / "metadata").is_dir()


def view(folder: Path, now_s: float) -> "CloudView":
    """Read under the cloud's lock, like everything that is known of it."""
    from evergrove.runtime import cloud_view
    from evergrove.runtime.rollouts import opened

    with opened(folder, wait_s=WAIT_S) as rollouts:
        known = len(rollouts.known_devices())
        return cloud_view.of(
            rollouts.policy, rollouts.cloud, rollouts.repository.publications(), known, rollouts.proposed(), now_s
        )


def say(seen: "CloudView") -> None:
    """For people."""
    show.table(facts(seen))
    if seen.lineage:
        show.line("\nReleases, newest last:")
        rows = [
            (
                f"{one.version}", one.release[:8], (one.parent or "")[:8], spent(one.epsilon, one.delta),
                "went to everybody" if one.serves else f"in place of {one.back_from}" if one.back_from else "",
            )
            for one in seen.lineage
        ]  # fmt: skip
        show.table(rows, ("version", "release", "made from", "ε spent", ""), right=(0,))
    if any(one.epsilon is None for one in seen.lineage):
        show.note("note: ε = ∞: no noise was added. What a single user's device learnt may be found in a release.")
    if seen.waits_for_signature:
        show.note(f"{seen.waits_for_signature} waits: `evergrove rollout sign CLOUD --keys KEYS`, or `rollout refuse`")


def facts(seen: "CloudView") -> list[tuple[str, str]]:
    """A cloud as rows."""
    since = f", the first for {show.duration(seen.waiting_since_s)}" if seen.waiting_since_s is not None else ""
    candidate = "nothing to do"
    if seen.candidate is not None:
        one = seen.candidate
        candidate = f"{one.says}; {show.plural(one.cohorts, 'cohort')} in it, ε {spent(one.epsilon, 0.0)}"
    rollout = seen.rollout
    return [
        ("generation", str(seen.generation) if seen.release else "none yet: `evergrove rollout start`"),
        ("goes on from", seen.release[:8] or "nothing"),
        ("cohorts", f"{seen.counted} counted: {seen.waiting} wait{since}, {seen.spent} spent, {seen.dropped} dropped"),
        ("ε of this generation", spent(seen.epsilon, 0.0)),
        ("clip", clip_words(seen.clip)),
        ("candidate", candidate),
        ("golden set", f"good for {show.plural(seen.gate_left, 'more candidate')}"),
        ("devices", f"{seen.devices} known"),
        ("rollout", f"version {rollout.version} is {rollout.status}: {rollout.says}" if rollout.version else "none"),
    ]  # fmt: skip


def clip_words(clip: "Proposal") -> str:
    """``1 now, 2.5 proposed for the next generation: 30% of about 1200 updates lay below 1, 50% are asked for``."""
    return f"{clip.now:g} now, {clip.clip:g} proposed for the next generation: {clip.says}"


def spent(epsilon: float | None, delta: float) -> str:
    """``1 at δ = 1e-06``, or ``∞``."""
    if epsilon is None:
        return "∞"
    return f"{epsilon:.3g} at δ = {delta:.0e}" if delta else f"{epsilon:.3g}"
