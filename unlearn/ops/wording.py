"""Other wordings of a caption that still name its concept."""

from __future__ import annotations

from collections.abc import Sequence

FRAMES = ("{c}", "a picture of {c}", "{w}, {c}")


def reworded(caption: str, concept: str) -> list[str]:
    """Other ways to ask for what a caption asks for: alone, framed, in the plural, repeated, backwards, misspelt.

    Args:
        caption: A prompt that names the concept.
        concept: The name as it stands there.

    Example:
        >>> reworded("a bird on a hat", "bird")[3:6]
        ['a birds on a hat', 'a bird bird bird on a hat', 'hat a on bird a']
    """
    framed = [f.format(c=concept, w=caption) for f in FRAMES]
    changed = [f"{concept}s", " ".join([concept] * 3)]
    named = [caption.replace(concept, c) for c in changed]
    backwards = " ".join(reversed(caption.split()))
    longest = max(concept.split(), key=len)
    slips = [caption.replace(concept, concept.replace(longest, w)) for w in misspelt(longest)]
    return [*framed, *named, backwards, *slips]


def misspelt(word: str) -> list[str]:
    """Three slips of the keyboard in the middle of a word: a letter too many, two exchanged, one missing.

    Example:
        >>> misspelt("three")
        ['thrree', 'there', 'thee']
    """
    k = len(word) // 2
    return [
        word[: k + 1] + word[k:],
        word[:k] + word[k : k + 2][::-1] + word[k + 2 :],
        word[:k] + word[k + 1 :],
    ]


def turns(wordings: Sequence[Sequence[str]]) -> list[str]:
    """The first wording of every prompt, then the second of every prompt, and so on: the set `paraphrases`.

    Args:
        wordings: Of each prompt, as many.

    Example:
        >>> turns([["a cat", "cats"], ["a dog", "dogs"]])
        ['a cat', 'a dog', 'cats', 'dogs']
    """
    return [w for turn in zip(*wordings, strict=True) for w in turn]
