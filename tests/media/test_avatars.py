"""Avatars: layers add up to the whole drawing, and what is held back stays out of all that is trained on."""

import numpy as np
import pytest

from evergrove.core.errors import UsageError
from evergrove.media import avatars
from evergrove.media.avatars import Atelier, Face, Look

pytest.importorskip("python_avatars")
pytest.importorskip("resvg_py")


def test_layers_add_up_to_the_whole_drawing() -> None:
    """At most 3 of 255 levels off anywhere, for every face and every piece of hair and clothing."""
    atelier, looks = Atelier(32), avatars.all_looks()
    rng = np.random.default_rng(0)
    for face in (avatars.FACES | avatars.HELD_BACK_FACES).values():
        look = looks[int(rng.integers(len(looks)))]
        off = np.abs(atelier.draw(face, look).astype(int) - atelier.draw_whole(face, look))
        assert off.max() <= 3


def test_held_back_looks_can_be_drawn_for_later_work() -> None:
    """Glasses, hats, beards and clothes change the picture, and count as held back."""
    atelier, face = Atelier(32), avatars.FACES["happy"]
    plain = Look("short", "tan", "black", "tee", "sky")
    before = atelier.draw(face, plain)
    for changed in (
        Look("short", "tan", "black", "tee", "sky", accessory="sunglasses"),
        Look("short", "tan", "black", "tee", "sky", facial_hair="beard"),
        Look("hijab", "tan", "black", "tee", "sky"),
        Look("short", "tan", "black", "chef", "sky"),
    ):
        assert (atelier.draw(face, changed) != before).any()
        assert avatars.held_back(face, changed)
    assert not avatars.held_back(face, plain)


def test_nothing_held_back_is_trained_tuned_or_measured_for_tuning() -> None:
    """Neither the eyes and mouths of love and dizzy, nor any held-back look, stands in what may be used."""
    look = avatars.all_looks()[0]
    assert set(avatars.HELD_BACK_FACES) == {"love", "dizzy"}
    for face in (*avatars.FACES.values(), *avatars.TUNING_FACES.values()):
        assert not avatars.held_back(face, look)
        assert face.eyes not in ("HEART", "X_DIZZY")
        assert face.mouth not in ("TWINKLE", "VOMIT")
    for look in avatars.all_looks():
        assert not avatars.held_back(avatars.FACES["happy"], look)
    used = {*avatars.HAIR.values(), *(part for part, _ in avatars.CLOTHES.values())}
    assert not used & avatars.HELD_BACK_LOOKS
    assert not set(avatars.VOCABULARY.factors[0].values) & set(avatars.HELD_BACK_FACES)


def test_splits_are_disjoint_and_whole() -> None:
    """Golden and test looks are never trained on, not even in their other shade."""
    parts = {name: avatars.all_looks(name) for name in avatars.SPLITS}
    assert sum(map(len, parts.values())) == len(avatars.all_looks()) == 3840
    values = {name: {look.values() for look in looks} for name, looks in parts.items()}
    assert not values["train"] & values["golden"]
    assert not values["train"] & values["test"]
    assert not values["golden"] & values["test"]
    assert len(parts["train"]) > 2500
    assert len(parts["golden"]) > 300
    assert len(parts["test"]) > 200


def test_packs_are_balanced_labelled_and_repeatable() -> None:
    """Every face equally often; codes decode to what was drawn; the same seed draws the same."""
    looks = avatars.all_looks("test")
    one, two = (avatars.draw_pack(Atelier(16), avatars.FACES, looks, 12, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])
    assert np.bincount(one[1][:, 0]).tolist() == [0, 2, 2, 2, 2, 2, 2]
    assert avatars.ALL_EMOTIONS.decode(tuple(one[1][1].tolist()))["emotion"] == "happy"
    images, codes = avatars.draw_every(Atelier(16), avatars.FACES, looks[:3])
    assert images.shape == (18, 16, 16, 3)
    assert codes.shape == (18, 6)


def test_an_unknown_part_is_named() -> None:
    """With what there is."""
    with pytest.raises(UsageError, match=r"no hair 'spiky'; known: .*mohawk"):
        Atelier(16).draw(Face("HAPPY", "DEFAULT", "SMILE"), Look("spiky", "tan", "black", "tee", "sky"))
