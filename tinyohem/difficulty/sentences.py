"""Sentences of English stories, for a whole batch of stories at once.

A **sentence** ends at a run of `.`, `!`, `?` (and `…`), unless
  - a letter or digit follows at once ("3.5", "www.example.org"),
  - it stands in quotes and the sentence goes on in lower case: `"Stop!" said Tom.` is one,
  - it is an ellipsis and the sentence goes on in lower case: "I saw... a cat." is one,
  - it is the dot of an abbreviation, an initial or the number of a list, and what stands around it
    does not begin another sentence (`goes_on_after_dot`),
and it holds at least one word: "Wait... !" is one sentence, "..." none. Words after the last
terminator are a sentence too.
"""

import re
import string

import numpy as np
import numpy.typing as npt

from tinyohem.difficulty.text import IntArray, TextBatch, pack

BytesArray = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_OTHER, _WORD, _TERMINATOR = 0, 1, 2
_KIND = bytes(
    _WORD if code >= 0x80 or chr(code).isalnum() else _TERMINATOR if chr(code) in ".!?" else _OTHER
    for code in range(256)
)
_WORD_BYTES = 8  # of a word before a dot: what fits one integer
_BEFORE, _AFTER = 64, 48  # bytes that are looked at around a dot


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# What a name or an explanation follows: never the end of a sentence.
_TITLES = _set("""
    Mr Mrs Ms Mx Dr Drs Prof St Rev Fr Hon Messrs Mme Mlle Gen Col Maj Capt Cpt Cmdr Lt Sgt Cpl Pvt
    Adm Gov Sen Pres Supt Mt Ft
""")
_GO_ON = {*_TITLES, *map(str.upper, _TITLES), "eg", "ie", "vs", "cf", "viz"}
_GO_ON_SPACED = {"e.g", "i.e", "E.g", "I.e"}
_BEFORE_NUMBERS = _set("""
    No Nos no nos Fig Figs fig figs Vol vol Ch ch pp Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov
    Dec
""")
_NUMERALS = _set("ii iii iv vi vii viii ix II III IV VI VII VIII IX")
# May end a sentence too.
_AMBIGUOUS = _set("""
    etc Etc Jr Sr Inc Ltd Co Corp Bros Dept dept Ave Rd Blvd Esq ft oz lb lbs hr hrs tsp tbsp approx
""")
# More often the last words of a sentence than before a name.
_OFTEN_LAST = {"etc", "Etc", "a.m", "p.m", "A.M", "P.M", "B.C", "A.D", "B.C.E", "C.E"}
_STARTERS = _set("""
    A After All An And Another Are As At Because Before Both But By Can Could Did Do Does Each
    Every Everybody Everyone Finally First For From He Her His How However I If In Is It Its Later
    Let Many My Next No Not Nothing Now Oh On Once One Or Our Please She So Some Someone Soon
    Suddenly That The Their Then There These They This Those Today Tomorrow Was We Well Were What
    When Where While Who Why Will With Would Yes Yesterday You Your
""")

_NO_CONTRACTION = r"(?<![^\W_])(?<![^\W_]['`])"  # not the "s" of "it's"
_ABBREVIATION = re.compile(
    rf"((?:{_NO_CONTRACTION}(?:[^\W\d_]|Ph)\. ?)*)"  # "p." of "p.m", "J. R. " of "J. R. R"
    rf"{_NO_CONTRACTION}([^\W_]+)$"
)
_OPENING = re.compile(r"(?:^|\n|[.!?:][\"')]*\s)[\s\"'(]*$")
# "At 5 p.m. Mr. Brown met …": so short a phrase is no sentence.
_OPENING_TIME = re.compile(
    r"(?:^|[\n.!?])[\s\"'(]*(?:About|After|Around|At|Before|By|Every|From|On|Since|Till|Until)"
    r"\b[^.!?\n]{0,20}$"
)
# "A big, red X. Tim …": a letter with an article is a thing, no initial.
_ARTICLE = re.compile(
    r"\b(?:an?|the|this|that|my|your|his|her|our|their) "
    r"(?:(?!by |of |to |with |and |from |for )[\w-]+,? ){0,2}$",
    re.IGNORECASE,
)
_NEXT = re.compile(r"([\"']?)[\s\"'()]*(\w*)")


def count_sentences(batch: TextBatch) -> IntArray:
    """Count the sentences of each story, (stories,); a story without a word has none."""
    kind = np.frombuffer(batch.data.translate(_KIND), np.uint8)
    word_starts = np.flatnonzero((kind[1:] == _WORD) & (kind[:-1] != _WORD)) + 1
    is_terminator = kind == _TERMINATOR
    run_ends = np.flatnonzero(is_terminator[:-1] & ~is_terminator[1:])

    # Two terminators with no word between them end the same sentence, so a sentence border is
    # the index of the word that follows. Borders at the start of a story do not divide it.
    following = np.searchsorted(word_starts, run_ends)
    latest = np.concatenate([[0], word_starts])[following]
    following = following[~_goes_on(batch, kind, run_ends, run_ends - latest)]
    following = following[np.diff(following, prepend=-1) > 0]
    story_borders = np.searchsorted(word_starts, batch.offsets)
    first, after_last = story_borders[:-1], story_borders[1:]
    inner = np.searchsorted(following, after_last) - np.searchsorted(following, first, "right")
    return np.where(after_last > first, inner + 1, 0)


def sentences(text: str) -> int:
    """Count the sentences of one text."""
    return int(count_sentences(pack([text]))[0])


def _goes_on(batch: TextBatch, kind: BytesArray, ends: IntArray, since_word: IntArray) -> Mask:
    """Tell after which runs of terminators a sentence goes on.

    Args:
        batch: the stories.
        kind: of each byte.
        ends: (runs,) where the last terminator of each run stands.
        since_word: (runs,) how far before it the latest word starts.
    """
    data = batch.data
    characters = np.frombuffer(data, np.uint8)
    before, after, second = (characters[ends + ahead] for ahead in (-1, 1, 2))
    goes_on: Mask = kind[ends + 1] == _WORD
    goes_on |= (after == ord(" ")) & (kind[ends + 2] == _TERMINATOR)  # ". . .": the last decides

    spaced = np.flatnonzero(second == ord(" "))
    quote = spaced[(after[spaced] == ord('"')) | (after[spaced] == ord("'"))]
    goes_on[quote] |= _is_lower(data, ends[quote] + 3)

    is_dot = characters[ends] == ord(".")
    ellipsis = np.flatnonzero(is_dot & ((before == ord(".")) | (before == ord(" "))))
    ellipsis = ellipsis[
        (after[ellipsis] == ord(" "))
        & ((before[ellipsis] == ord(".")) | (characters[ends[ellipsis] - 2] == ord(".")))
    ]
    goes_on[ellipsis] |= _is_lower(data, ends[ellipsis] + 2)

    short = is_dot & (kind[ends - 1] == _WORD) & (since_word <= _WORD_BYTES) & ~goes_on
    at = np.flatnonzero(short)
    always, perhaps = _abbreviations(characters, kind, ends[at], since_word[at])
    goes_on[at[always]] = True
    for index in at[perhaps].tolist():
        dot = int(ends[index])
        story = int(np.searchsorted(batch.offsets, dot, "right")) - 1
        first, end = batch.offsets[story : story + 2].tolist()
        before_dot = data[max(first, dot - _BEFORE) : dot].decode(errors="ignore")
        after_dot = data[dot + 1 : min(end, dot + 1 + _AFTER)].decode(errors="ignore")
        goes_on[index] = goes_on_after_dot(before_dot, after_dot)
    return goes_on


def _is_lower(data: bytes, positions: IntArray) -> Mask:
    characters = np.frombuffer(data, np.uint8)[positions]
    lower: Mask = (characters >= ord("a")) & (characters <= ord("z"))
    for index in np.flatnonzero(characters >= 0x80).tolist():
        first = int(positions[index])
        lower[index] = data[first : first + 4].decode(errors="ignore")[:1].islower()
    return lower


# Words of at most 8 ASCII letters as integers, the last letter in the highest byte.
_KEYS = {
    int.from_bytes(word.encode(), "little"): word in _GO_ON
    for word in (*_GO_ON, *_BEFORE_NUMBERS, *_NUMERALS, *_AMBIGUOUS, *string.ascii_letters)
}
_KNOWN = np.array(sorted(_KEYS), np.uint64)
_KNOWN_GO_ON = np.array([_KEYS[key] for key in sorted(_KEYS)])


def _abbreviations(
    characters: BytesArray, kind: BytesArray, dots: IntArray, lengths: IntArray
) -> tuple[Mask, Mask]:
    """Tell which words before dots, `lengths` bytes long, always go on and which need a look.

    The second are ambiguous abbreviations, single letters and numbers.
    """
    windows = np.lib.stride_tricks.sliding_window_view(characters, _WORD_BYTES)
    ending = windows[dots - _WORD_BYTES].view("<u8")[:, 0]
    key = ending >> (8 * (_WORD_BYTES - lengths)).astype(np.uint64)
    nearest = np.minimum(np.searchsorted(_KNOWN, key), len(_KNOWN) - 1)
    known = _KNOWN[nearest] == key
    always = known & _KNOWN_GO_ON[nearest]

    first, ahead = characters[dots - lengths], characters[dots - lengths - 1]
    contraction = ((ahead == ord("'")) | (ahead == ord("`"))) & (kind[dots - lengths - 2] == _WORD)
    number = (first >= ord("0")) & (first <= ord("9"))
    foreign_initial = (first >= 0x80) & (lengths <= 4)
    return always & ~contraction, (known & ~always | number | foreign_initial) & ~contraction


def goes_on_after_dot(before: str, after: str) -> bool:
    """Tell whether a sentence goes on after the dot of an abbreviation, initial or list number.

    It does before a comma, a digit or lower case. Before a capital, which may begin a name or a
    sentence, it does
      - after what always stands before something else: "Mr.", "e.g.";
      - after a number, or a letter, that opens the line or the sentence: "1. Wash your hands.";
      - after initials and ambiguous abbreviations, "J. R. R.", "U.S.", "Inc.", unless the next word
        often begins a sentence and is no name: "He", "Then";
      - after what is often last, "p.m.", "etc.", only where it opened the sentence: "At 5 p.m. I".
    Little grammar is looked at: "I got an A and a B. Tom" ends, "Plan B. Tom" reads like a name.

    Args:
        before: the text before the dot, normalised, or its last characters.
        after: the text after it.
    """
    found = _ABBREVIATION.search(before)
    if not found:
        return False
    spaced, word = found.groups()
    name, rest = spaced.replace(" ", "") + word, before[: found.start()]
    quote, follows = _NEXT.match(after).groups()  # type: ignore[union-attr]  # matches anything
    if word in _GO_ON or name in _GO_ON_SPACED:
        return True
    if quote:
        return False
    if word in _BEFORE_NUMBERS:
        return follows[:1].isdecimal()
    if (word.isdecimal() or word in _NUMERALS or len(name) == 1) and _opens(rest, word):
        return True
    if word.isdecimal() or (len(word) > 1 and word not in _AMBIGUOUS):
        return False
    if after[:1] in {",", ";", ":"}:
        return True
    if name == "I" or (len(name) == 1 and _ARTICLE.search(rest)):
        return False
    if len(name) == 1 and name.islower():  # "p. 5", "p. m."
        return follows[:1].isdecimal() or (len(follows) == 1 and follows.islower())
    if not follows[:1].isupper() or _OPENING_TIME.search(rest):
        return True
    return name not in _OFTEN_LAST and follows not in _STARTERS


def _opens(before: str, word: str) -> bool:
    """Tell whether a word after `before` opens a line or a sentence."""
    border = _OPENING.search(before)
    if not border:
        return False
    earlier, mark = before[: border.start()], before[border.start() :]
    return not (mark.startswith(".") and goes_on_after_dot(earlier, f" {word}"))
