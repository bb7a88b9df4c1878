"""Cartoon avatars as training pictures: `python_avatars` drawn by `resvg-py`, with the condition that each one shows.

A picture is a *face* (eyes, brows, mouth: the emotion) and a *look* (everything else). Body, clothes, face and hair are
rasterised once each at twice the size, then laid over one another in numpy, so that ten thousand pictures take seconds.
Needs the extra ``demo``; the shipped base and its cached pictures do not.

What is *held back* here is never trained on, tuned on or used as a pseudo-task: later work learns it on devices.
"""

import hashlib
import io
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from evergrove.core.conditions import Code, Factor, Vocabulary
from evergrove.core.errors import MissingDependency, UsageError

Image = NDArray[np.uint8]
"""A picture (H, W, 3), or a layer (H, W, 4) with premultiplied alpha."""


@dataclass(frozen=True)
class Face:
    """Eyes, brows and mouth by their names in ``python_avatars``."""

    eyes: str
    brows: str
    mouth: str


@dataclass(frozen=True)
class Look:
    """All that is not the face, by our names. ``shade`` picks one of the clothes' two colours and is not labelled."""

    hair: str
    skin: str
    hair_color: str
    clothes: str
    background: str
    shade: int = 0
    accessory: str = "none"
    facial_hair: str = "none"

    def values(self) -> tuple[str, ...]:
        """The labelled part, in the vocabulary's order after the emotion."""
        return (self.hair, self.skin, self.hair_color, self.clothes, self.background)


FACES = {
    "neutral": Face("DEFAULT", "DEFAULT", "SERIOUS"),
    "happy": Face("HAPPY", "DEFAULT", "SMILE"),
    "sad": Face("CRY", "SAD_CONCERNED", "SAD"),
    "angry": Face("SQUINT", "ANGRY", "GRIMACE"),
    "surprised": Face("SURPRISED", "RAISED_EXCITED", "SCREAM_OPEN"),
    "playful": Face("WINK_WACKY", "UP_DOWN", "TONGUE"),
}
"""The emotions that the base knows."""

HELD_BACK_FACES = {
    "love": Face("HEART", "DEFAULT", "TWINKLE"),
    "dizzy": Face("X_DIZZY", "SAD_CONCERNED", "VOMIT"),
}
"""The emotions that the devices of the demo learn."""

TUNING_FACES = {
    "sceptical": Face("EYE_ROLL", "UP_DOWN", "CONCERNED"),
    "sleepy": Face("CLOSED", "RAISED_EXCITED", "DISBELIEF"),
    "sly": Face("SIDE", "ANGRY", "EATING"),
    "bored": Face("EYE_ROLL", "DEFAULT", "DISBELIEF"),
}
"""New emotions that 'learn a new condition' is tuned on: neither trained nor look-alikes of what is held back."""

HAIR = {
    "short": "SHORT_FLAT",
    "bob": "BOB",
    "afro": "FRO",
    "pixie": "PIXIE",
    "long": "STRAIGHT_STRAND",
    "frizzy": "SHORT_DREADS_2",
}
SKIN = {"pale": "#FFDBB4", "tan": "#EDB98A", "brown": "#AE5D29", "dark": "#7F543B"}
HAIR_COLOR = {"black": "#2C1B18", "brown": "#593020", "blonde": "#D6B370", "red": "#C93305", "silver": "#E8E1E1"}
CLOTHES = {
    "hoodie": ("HOODIE", ("#5199E4", "#FF5C5C")),
    "tee": ("SHIRT_SCOOP_NECK", ("#FFFFB1", "#FF488E")),
    "blazer": ("BLAZER_SHIRT", ("#E6E6E6", "#5199E4")),
    "overall": ("OVERALL", ("#25557C", "#FF5C5C")),
}
BACKGROUND = {"sky": "#8EC9F0", "mint": "#A9E5BB", "lilac": "#C9B6E8", "night": "#3C4C6E"}

HELD_BACK_HAIR = {
    "mohawk": "MOHAWK",
    "bun": "BUN",
    "wild": "EINSTEIN_HAIR",
    "waves": "LONG_HAIR_CURLY",
    "undercut": "SHAVED_SIDES",
    "flowers": "FRIDA",
    "twists": "TWIST_LONG_HAIR",
    "cornrows": "CORNROWS",
    "curvy": "CURVY",
    "dreadlocks": "DREADLOCKS",
    "braids": "BRAIDS",
    "half_shaved": "HALF_SHAVED",
    "bald": "NONE",
}
HELD_BACK_CLOTHES = {
    "chef": ("CHEF", ("#FFFFFF", "#E6E6E6")),
    "astronaut": ("ASTRONAUT_SUIT", ("#FFFFFF", "#FFFFFF")),
    "gladiator": ("GLADIATOR", ("#FF5C5C", "#FF5C5C")),
    "jedi": ("JEDI_ROBE", ("#3C4F5C", "#3C4F5C")),
    "suit": ("BOND_SUIT", ("#262E33", "#262E33")),
    "collar": ("COLLAR_SWEATER", ("#A7FFC4", "#FF5C5C")),
}
HELD_BACK_HATS = {
    "hat": "HAT",
    "hijab": "HIJAB",
    "turban": "TURBAN",
    "beanie": "WINTER_HAT_1",
    "ear_flaps": "WINTER_HAT_2",
    "bobble_hat": "WINTER_HAT_3",
    "reindeer": "WINTER_HAT_4",
}
HELD_BACK_ACCESSORIES = {
    "eyepatch": "EYEPATCH",
    "kurt": "KURT",
    "glasses": "PRESCRIPTION_1",
    "thick_glasses": "PRESCRIPTION_2",
    "round_glasses": "ROUND",
    "sunglasses": "SUNGLASSES",
    "wayfarers": "WAYFARERS",
}
HELD_BACK_FACIAL_HAIR = {
    "stubble": "BEARD_LIGHT",
    "full_beard": "BEARD_MAGESTIC",
    "beard": "BEARD_MEDIUM",
    "fancy_moustache": "MOUSTACHE_FANCY",
    "moustache": "MOUSTACHE_MAGNUM",
}
HELD_BACK_LOOKS = frozenset(
    {
        *HELD_BACK_HAIR.values(),
        *HELD_BACK_HATS.values(),
        *HELD_BACK_ACCESSORIES.values(),
        *HELD_BACK_FACIAL_HAIR.values(),
        *(name for name, _ in HELD_BACK_CLOTHES.values()),
    }
)
"""Every part, by its name in ``python_avatars``, that no training, tuning or pseudo-task may draw."""

VOCABULARY = Vocabulary(
    (
        Factor("emotion", tuple(FACES)),
        Factor("hair", tuple(HAIR)),
        Factor("skin", tuple(SKIN)),
        Factor("hair_color", tuple(HAIR_COLOR)),
        Factor("clothes", tuple(CLOTHES)),
        Factor("background", tuple(BACKGROUND)),
    )
)
"""What the shipped base understands."""

ALL_EMOTIONS = Vocabulary(
    (Factor("emotion", (*FACES, *HELD_BACK_FACES)), *VOCABULARY.factors[1:]),
)
"""The same with love and dizzy: what the oracle measures and the demo's stream is labelled by."""

TINY = Vocabulary(
    (
        Factor("emotion", ("neutral", "happy", "angry", "surprised")),
        Factor("hair", ("short", "bob")),
        Factor("skin", ("tan", "brown")),
        Factor("hair_color", ("black", "blonde", "red")),
        Factor("background", ("sky", "lilac")),
    )
)
"""What the tiny base of the tests understands; what it does not name is fixed."""

VIEW_BOX = (36.0, 34.0, 194.0, 194.0)
TINY_VIEW_BOX = (60.0, 60.0, 144.0, 144.0)
"""The part of the library's 264×280 canvas that is shown (x, y, width, height): the head large, the collar in sight."""
SUPERSAMPLE = 2
GROUPS = ("Body", "Clothing", "Face", "Top")
SPLITS = {"train": (0, 80), "golden": (80, 92), "test": (92, 100)}
"""Which share of all looks belongs to what, in per cent of a hash: golden and test looks are never trained on."""


def tiny_looks(split: str) -> list[Look]:
    """The looks of the tiny base: ``train`` (36) or ``golden`` (12, every fourth)."""
    hairs, skins, colors, backgrounds = (factor.values for factor in TINY.factors[1:])
    looks = [
        Look(h, s, c, "hoodie", b, shade)
        for h in hairs
        for s in skins
        for c in colors
        for b in backgrounds
        for shade in (0, 1)
    ]
    return [look for i, look in enumerate(looks) if (i // 2 * 5 % 24 < 6) == (split == "golden")]


def all_looks(split: str | None = None) -> list[Look]:
    """Every combination of the known looks (3840), or those of one split of ``SPLITS``; the order is fixed."""
    looks = [
        Look(hair, skin, color, clothes, background, shade)
        for hair in HAIR
        for skin in SKIN
        for color in HAIR_COLOR
        for clothes in CLOTHES
        for background in BACKGROUND
        for shade in (0, 1)
    ]
    if split is None:
        return looks
    low, high = SPLITS[split]
    return [look for look in looks if low <= _bucket(look) < high]


def _bucket(look: Look) -> int:
    text = "/".join(look.values()).encode()  # both shades of a look fall on the same side
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") % 100


@dataclass
class Atelier:
    """Draws avatars of ``image_px`` pixels a side and keeps the rasterised layers that it has used."""

    image_px: int = 64
    view_box: tuple[float, float, float, float] = VIEW_BOX
    _layers: dict[tuple[str, ...], Image] = field(default_factory=dict, repr=False)

    def draw(self, face: Face, look: Look) -> Image:
        """One avatar, uint8 (image_px, image_px, 3). Raises ``UsageError`` for a part that there is not."""
        side = self.image_px * SUPERSAMPLE
        background = np.frombuffer(bytes.fromhex(_lookup("background", look.background, BACKGROUND)[1:]), np.uint8)
        picture = np.broadcast_to(background.astype(np.uint16), (side, side, 3)).copy()
        for group in GROUPS:
            layer = self._layer(group, face, look)
            shown = 255 - layer[..., 3:].astype(np.uint16)
            picture = layer[..., :3] + (picture * shown + 127) // 255
        return _shrunk(picture)

    def draw_whole(self, face: Face, look: Look) -> Image:
        """The same avatar rasterised in one piece: slower; what ``draw`` is checked against."""
        rgba = self._rasterise(_svg(face, look), GROUPS).astype(np.uint16)
        background = np.frombuffer(bytes.fromhex(BACKGROUND[look.background][1:]), np.uint8).astype(np.uint16)
        picture = rgba[..., :3] + (background * (255 - rgba[..., 3:]) + 127) // 255
        return _shrunk(picture)

    def _layer(self, group: str, face: Face, look: Look) -> Image:
        key: tuple[str, ...] = {
            "Body": ("Body", look.skin),
            "Clothing": ("Clothing", look.clothes, str(look.shade)),
            "Face": ("Face", face.eyes, face.brows, face.mouth),
            "Top": ("Top", look.hair, look.hair_color, look.accessory, look.facial_hair),
        }[group]
        if key not in self._layers:
            self._layers[key] = self._rasterise(_svg(face, look), (group,))
        return self._layers[key]

    def _rasterise(self, svg: str, groups: tuple[str, ...]) -> Image:
        try:
            import resvg_py
        except ImportError as error:
            raise _no_library() from error
        from PIL import Image as Pil

        root = ElementTree.fromstring(svg)
        side = self.image_px * SUPERSAMPLE
        root.set("viewBox", " ".join(f"{v:g}" for v in self.view_box))
        root.set("width", str(side))
        root.set("height", str(side))
        for parent in list(root.iter()):
            for child in list(parent):
                name = child.get("id", "").removeprefix("transparent_")
                if name in GROUPS and child.get("id", "").startswith("transparent_") and name not in groups:
                    parent.remove(child)
        png = resvg_py.svg_to_bytes(svg_string=ElementTree.tostring(root, "unicode"), skip_system_fonts=True)
        rgba = np.asarray(Pil.open(io.BytesIO(png)).convert("RGBA"), np.uint16)
        premultiplied = (rgba[..., :3] * rgba[..., 3:] + 127) // 255
        return np.concatenate((premultiplied, rgba[..., 3:]), axis=-1).astype(np.uint8)


def _shrunk(picture: NDArray[np.uint16]) -> Image:
    """The mean of every ``SUPERSAMPLE``² pixels."""
    side = len(picture) // SUPERSAMPLE
    parts = picture.reshape(side, SUPERSAMPLE, side, SUPERSAMPLE, 3)
    mean: NDArray[np.uint16] = (parts.sum(axis=(1, 3)) + SUPERSAMPLE**2 // 2) // SUPERSAMPLE**2
    return mean.clip(0, 255).astype(np.uint8)


def draw_pack(
    atelier: Atelier,
    faces: dict[str, Face],
    looks: list[Look],
    n: int,
    rng: np.random.Generator,
    vocabulary: Vocabulary = ALL_EMOTIONS,
) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """``n`` pictures uint8 (n, H, W, 3) and codes int16 (n, F), balanced over ``faces``, looks drawn at random."""
    names = list(faces)
    images = np.empty((n, atelier.image_px, atelier.image_px, 3), np.uint8)
    codes = np.empty((n, len(vocabulary.factors)), np.int16)
    for i in range(n):
        name = names[i % len(names)]
        look = looks[int(rng.integers(len(looks)))]
        images[i] = atelier.draw(faces[name], look)
        codes[i] = code_of(name, look, vocabulary)
    return images, codes


def draw_every(
    atelier: Atelier, faces: dict[str, Face], looks: list[Look], vocabulary: Vocabulary = ALL_EMOTIONS
) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Every face with every look, once: pictures uint8 (n, H, W, 3) and codes int16 (n, 6)."""
    both = [(name, look) for name in faces for look in looks]
    images = np.empty((len(both), atelier.image_px, atelier.image_px, 3), np.uint8)
    for i, (name, look) in enumerate(both):
        images[i] = atelier.draw(faces[name], look)
    return images, np.array([code_of(name, look, vocabulary) for name, look in both], np.int16)


def code_of(emotion: str, look: Look, vocabulary: Vocabulary = ALL_EMOTIONS) -> Code:
    """The numbers of one avatar's condition."""
    known = dict(zip(VOCABULARY.names, (emotion, *look.values()), strict=True))
    return vocabulary.encode({name: known[name] for name in vocabulary.names})


def held_back(face: Face, look: Look) -> bool:
    """Whether an avatar shows anything that training, tuning and pseudo-tasks must not see."""
    eyes = {f.eyes for f in HELD_BACK_FACES.values()}
    mouths = {f.mouth for f in HELD_BACK_FACES.values()}
    return (
        face.eyes in eyes
        or face.mouth in mouths
        or look.accessory != "none"
        or look.facial_hair != "none"
        or look.hair not in HAIR
        or look.clothes not in CLOTHES
    )


def _svg(face: Face, look: Look) -> str:
    try:
        import python_avatars as pa
    except ImportError as error:
        raise _no_library() from error
    hats: dict[str, Any] = {name: pa.HatType[part] for name, part in HELD_BACK_HATS.items()}
    tops = hats | {name: pa.HairType[part] for name, part in (HAIR | HELD_BACK_HAIR).items()}
    part, shades = _lookup("clothes", look.clothes, CLOTHES | HELD_BACK_CLOTHES)
    color = _lookup("hair_color", look.hair_color, HAIR_COLOR)
    return str(
        pa.Avatar(
            style=pa.AvatarStyle.TRANSPARENT,
            top=_lookup("hair", look.hair, tops),
            hat_color=pa.ClothingColor.BLUE_03,
            eyes=pa.EyeType[face.eyes],
            eyebrows=pa.EyebrowType[face.brows],
            mouth=pa.MouthType[face.mouth],
            nose=pa.NoseType.DEFAULT,
            skin_color=_lookup("skin", look.skin, SKIN),
            hair_color=color,
            facial_hair=pa.FacialHairType[({"none": "NONE"} | HELD_BACK_FACIAL_HAIR)[look.facial_hair]],
            facial_hair_color=color,
            accessory=pa.AccessoryType[({"none": "NONE"} | HELD_BACK_ACCESSORIES)[look.accessory]],
            clothing=pa.ClothingType[part],
            clothing_color=shades[look.shade],
            shirt_graphic=pa.ClothingGraphic.NONE,
        ).render()
    )


def _lookup(factor: str, value: str, known: dict[str, Any]) -> Any:
    if value not in known:
        raise UsageError(f"there is no {factor} '{value}'; known: {', '.join(known)}")
    return known[value]


def _no_library() -> MissingDependency:
    return MissingDependency("drawing avatars needs python_avatars and resvg-py: pip install 'evergrove[demo]'")
