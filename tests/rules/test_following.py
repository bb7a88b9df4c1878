"""Which releases a fog gathers for: the generation that the fleet is in, and plans that every worker comes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from evergrove.adapters.release import open_release
from evergrove.core.rollout import FULL, Directive
from evergrove.rules.following import RELEASES_MAX, admitted, belongs, everybodys
from evergrove.rules.params import Layout


@pytest.mark.parametrize(
    ("told", "version"),
    [
        (None, 7),
        (Directive("r", "new", 5, FULL, True, "old", 4), 5),
        (Directive("r", "new", 5, FULL // 4, True, "old", 4), 4),
        (Directive("r", "new", 5, FULL, False, "old", 4), 4),
        (Directive("r", "new", 5, 0, True, "old", 4), 4),
        (Directive("r", "new", 1, FULL // 4, True), 1),
        (Directive("r", "new", 1, 0, True), 0),
    ],
)
def test_the_fleet_is_where_everybody_is(told: Directive | None, version: int) -> None:
    """A stage, a shadow or a stop leave it at the version before; the very first release has none before it."""
    assert everybodys(told, 7) == version


def test_a_release_belongs_to_its_own_layout() -> None:
    """Another generation, base, A or vocabulary is another layout."""
    manifest = open_release("tiny").manifest
    layout = Layout(manifest.base.sha256, manifest.basis.sha256, manifest.generation, manifest.vocabulary, ())
    assert belongs(manifest, layout)
    wider = manifest.vocabulary.extend({manifest.vocabulary.names[0]: "odd"})
    for change in ({"base": "0" * 64}, {"basis": "0" * 64}, {"generation": 99}, {"vocabulary": wider}):
        assert not belongs(manifest, replace(layout, **change))  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 40), unique=True, max_size=12), st.lists(st.integers(0, 40), unique=True, max_size=12))
def test_whoever_adds_in_whatever_order_comes_to_the_same_plan(one: list[int], two: list[int]) -> None:
    """Oldest first, none twice, the newest sixteen; what nobody has numbered counts as newest."""
    versions = {str(n): n for n in range(40)}
    a, b = [str(n) for n in one], [str(n) for n in two]
    found = admitted(admitted((), a, versions), b, versions)
    assert found == admitted(admitted((), b, versions), a, versions)
    assert found == tuple(sorted({*a, *b}, key=int))[-RELEASES_MAX:]
