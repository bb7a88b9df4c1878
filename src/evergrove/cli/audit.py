"""``evergrove audit``: which bytes left, what ε was spent, who is trusted with what; and the attack, on request."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson
from evergrove.core.errors import CorruptState, UsageError

if TYPE_CHECKING:
    from evergrove.runtime.auditing import Findings
    from evergrove.runtime.canaries import Attack
    from evergrove.runtime.membership import Exposed


def audit(
    place: Annotated[
        Path | None,
        typer.Argument(metavar="PLACE", help="The folder of a device, a fog or a cloud, or an exported ledger."),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Write the byte ledger as chained JSON lines."),
    ] = None,
    empirical: Annotated[
        bool,
        typer.Option("--empirical", help="Attack it: a fog's noise by canaries, a device's adapter by its losses."),
    ] = False,
    canaries: Annotated[
        int | None, typer.Option("--canaries", help="How many, for a fog's noise; by default as the claim asks for.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="Without PLACE: attack the noise that a fog makes for this ε.")
    ] = None,
    delta: Annotated[float, typer.Option("--delta", help="δ, beside --epsilon.")] = 1e-6,
    database: Annotated[
        str | None, typer.Option("--database", metavar="URL", help="Of a fog, as at `evergrove up fog`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which bytes left by kind, what ε was spent, and who is trusted with what; check every chain and claim.

    Exits with 1 where a chain is broken, or a claim is exceeded.

    Example: evergrove audit face --export ledger.jsonl
    """
    if place is None:
        if not empirical or epsilon is None:
            raise UsageError("audit what? Say the folder of a device, a fog or a cloud, or --empirical --epsilon 1")
        _attack_settings(epsilon, delta, canaries, as_json)
        return
    if place.is_file():
        _check_export(place, as_json)
        return
    found, attacked = _audit(place, database), None
    if export is not None:
        _export(found, export)
    faults = list(found.faults)
    if empirical:
        attacked = _attacked(place, found, canaries, database)
        faults += _refuted(attacked)
    if as_json:
        show.json({**show.plain(found), "faults": faults, "empirical": attacked and show.plain(attacked)})
    else:
        _tell(found)
        for line in _attack_words(attacked):
            show.line(line)
        for fault in faults:
            show.note(f"fault: {fault}")
    if faults:
        raise typer.Exit(1)


def _audit(place: Path, database: str | None) -> "Findings":
    from evergrove.runtime import auditing

    match auditing.kind_of(place):
        case "device":
            from evergrove import bootstrap

            return auditing.audit_device(place, bootstrap.read_config(place), bootstrap.CODEC)
        case "fog":
            return auditing.audit_fog(place, database)
        case _:
            return auditing.audit_cloud(place)


def _attacked(place: Path, found: "Findings", canaries: int | None, database: str | None) -> "Attack | Exposed":
    if found.kind == "device":
        from evergrove import bootstrap
        from evergrove.runtime import membership

        identity = bootstrap.read_identity(place)
        return membership.attack(place, bootstrap.read_release(place, identity), bootstrap.read_state(place))
    if found.kind == "fog":
        from evergrove.runtime import auditing
        from evergrove.runtime.canaries import attack

        plan, budget = auditing.latest_stream(place, database)
        return attack(plan, budget, canaries)
    raise UsageError("a cloud adds no noise: attack its fogs (`evergrove audit FOG --empirical`) and its devices")


def _attack_settings(epsilon: float, delta: float, canaries: int | None, as_json: bool) -> None:
    """The noise of a fog that is not there yet: 100 rounds, a device in ten of them."""
    from evergrove.rules.privacy.ledger import Budget
    from evergrove.runtime.canaries import attack, plan_for

    done = attack(plan_for(epsilon, delta, 100, 10, 10), Budget(delta, epsilon, None), canaries)
    if as_json:
        show.json({"faults": _refuted(done), "empirical": show.plain(done)})
    else:
        for line in _attack_words(done):
            show.line(line)
        for fault in _refuted(done):
            show.note(f"fault: {fault}")
    if done.refuted:
        raise typer.Exit(1)


def _export(found: "Findings", path: Path) -> None:
    from evergrove.adapters.files import Files
    from evergrove.views.byte_ledger import export

    Files().write(path.absolute(), "".join(f"{line}\n" for line in export(found.name, found.sent)).encode())
    show.note(f"Wrote {show.plural(len(found.sent), 'line')} of the byte ledger to {path}.")


def _check_export(path: Path, as_json: bool) -> None:
    """An exported byte ledger: whole, or where its chain breaks."""
    from evergrove.views.byte_ledger import read, totals

    try:
        with path.open(encoding="utf-8") as file:
            head, sent = read(file)
    except (CorruptState, UnicodeDecodeError) as fault:
        raise CorruptState(f"{path}: {fault}") from fault
    if as_json:
        show.json({"place": head.place, "lines": head.lines, "sent": [show.plain(one) for one in totals(sent)]})
        return
    show.line(f"The byte ledger of {head.place}: {show.plural(head.lines, 'line')}, the chain holds.")
    _sent_table(sent)


def _tell(found: "Findings") -> None:
    show.line(f"{found.kind} {found.name}: {show.plural(found.events, 'line')} of its books checked.")
    show.line("")
    _sent_table(found.sent)
    if found.told is not None:
        bound = "∞: NO BOUND" if found.told.epsilon is None else f"{found.told.epsilon:g}"
        show.line(f"\nIts home fog {found.told.fog} says of generation {found.told.generation}: ε = {bound}.")
        show.line(found.told.protection)
    if found.kind == "fog":
        _streams_table(found)
    if found.kind == "cloud" and found.streams:
        show.line("\nε ledgers that this cloud keeps of its fogs (with all before: wherever a device was before):")
        _streams_rows(found)
    if found.releases:
        show.line("\nε of each release (signed, and by its cohorts; ∞ means no bound):")
        rows = [
            (str(r.version), r.release[:8], str(r.generation), str(r.cohorts), _word(r.claimed), _word(r.spent))
            for r in found.releases
        ]
        show.table(rows, ("version", "release", "generation", "cohorts", "signed", "spent"), right=(0, 2, 3, 4, 5))
    show.line("\nWho is trusted with what:")
    for sentence in found.trust:
        show.line(f"  - {sentence}")


def _sent_table(sent: "tuple[object, ...]") -> None:
    from evergrove.views.byte_ledger import Sending, totals

    lines = totals(one for one in sent if isinstance(one, Sending))
    if not lines:
        show.line("No byte has left.")
        return
    rows = [(one.category, one.peer, str(one.n), show.size(one.n_bytes)) for one in lines]
    show.table(rows, ("kind", "peer", "times", "bytes"), right=(2, 3))


def _streams_table(found: "Findings") -> None:
    bound = found.budget[0] if found.budget else None
    if bound is None:
        show.line("\nNO NOISE, ε = ∞: sums and releases of this fog are not differentially private.")
    else:
        lifetime = _word(found.budget[1] if found.budget else None)
        show.line(f"\nε ledger (δ = {found.delta:g}): budget {bound:g} a generation, {lifetime} a lifetime.")
    _streams_rows(found)


def _streams_rows(found: "Findings") -> None:
    rows = [
        (str(s.generation), s.fog, f"{s.rounds} of {s.rounds_most}", _word(s.epsilon), _word(s.epsilon_lifetime))
        for s in found.streams
    ]
    if rows:
        show.table(rows, ("generation", "fog", "rounds", "ε", "ε with all before"), right=(0, 2, 3, 4))


def _attack_words(done: "Attack | Exposed | None") -> list[str]:
    """What an attack came to, for people."""
    if done is None:
        return []
    from evergrove.runtime.canaries import Attack

    if isinstance(done, Attack):
        claim = "claims nothing (ε = ∞)" if done.claim is None else f"claims ε = {done.claim:g}"
        right = f"{done.correct} of {done.guesses} guesses were right"
        lines = [
            f"\nAttack by {done.canaries} canaries over {done.rounds} rounds: {right}.",
            f"ε is at least {done.bound:.3g} (95 % confidence, δ = {done.delta:g}); the fog {claim}.",
            f"So many canaries could show {done.ceiling:.3g} at most, whatever the noise.",
            f"Estimate by canaries in random directions, no bound: {done.estimate:.3g} ± {done.estimate_error:.2g}.",
        ]
        if done.claim is not None and not done.could:
            lines.append("So few canaries could not refute the claim: use more (--canaries).")
        return lines
    rate = f"{done.tpr:.1%} ({done.low:.1%} to {done.high:.1%}) of {done.n_members} training pictures"
    false = f"{done.fpr:.1%} of {done.n_others} others (at most {done.fpr_most:.1%})"
    return [
        f"\nLoss-based attack on {show.version_words(done.version)}: it recognises {rate}, accusing {false}.",
        "Whoever has the adapter can do this; it does not leave the device but clipped, and noised in a sum.",
    ]


def _refuted(done: "Attack | Exposed") -> list[str]:
    from evergrove.runtime.canaries import Attack

    if isinstance(done, Attack) and done.refuted:
        return [f"the attack shows ε ≥ {done.bound:.3g}, the claim is {done.claim:g}: the noise is weaker than it says"]
    return []


def _word(epsilon: float | None) -> str:
    return "∞" if epsilon is None else f"{epsilon:.4g}"
