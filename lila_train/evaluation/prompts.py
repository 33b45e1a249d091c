"""The sentences that classes are put into, for CLIP: 80 of the ImageNet zero-shot classifier and 5 of scenes.

Sources: Radford et al., CLIP (2021), the prompts released with it; Gu et al., ViLD (2022) for those of scenes. Their
embeddings are averaged, so their order means nothing.
"""

from __future__ import annotations

_BOTH = (  # with "a" and with "the"
    "bad photo of {}",
    "sculpture of {}",
    "low resolution photo of {}",
    "cropped photo of {}",
    "bright photo of {}",
    "dark photo of {}",
    "drawing of {}",
    "close-up photo of {}",
    "black and white photo of {}",
    "painting of {}",
    "pixelated photo of {}",
    "jpeg corrupted photo of {}",
    "blurry photo of {}",
    "good photo of {}",
    "rendering of {}",
    "doodle of {}",
    "sketch of {}",
    "rendition of {}",
    "tattoo of {}",
)
_PHOTOS = ("hard to see", "clean", "dirty", "cool", "large", "nice", "weird", "small")  # a photo of a clean …
_MADE = ("embroidered", "plastic", "origami", "toy", "cartoon", "plushie")  # the plastic …, a plastic …
_ART = ("graffiti of", "art of", "itap of")
_OTHER = (
    "a photo of the {}.",
    "a photo of a {}.",
    "a photo of many {}.",
    "a photo of one {}.",
    "a photo of my {}.",
    "itap of my {}.",
    "a {} in a video game.",
    "the {} in a video game.",
)
SCENES = tuple(
    f"{words} in the scene."
    for words in ("there is a {}", "there is the {}", "this is a {}", "this is the {}", "this is one {}")
)


def _imagenet() -> tuple[str, ...]:
    found = [f"a {words.format(f'{article} {{}}')}." for words in _BOTH for article in ("a", "the")]
    found += [f"a photo of {article} {word} {{}}." for word in _PHOTOS for article in ("a", "the")]
    found += [f"{article} {word} {{}}." for word in _MADE for article in ("a", "the")]
    found += [f"{word} {article} {{}}." for word in _ART for article in ("a", "the")]
    return (*found, *_OTHER)


IMAGENET = _imagenet()
