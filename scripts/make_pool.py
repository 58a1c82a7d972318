"""Build a dirty pool: real stories among four kinds of junk, each row with its true kind.

    python scripts/make_pool.py stories.jsonl --junk 0.5 --seed 0 --out pools/0.5/pool.jsonl

Some stories, `--target` of them, go to `target.jsonl` beside the pool and are in no pool; all
others go in. Junk follows from the share, a quarter of it of each kind:

    docstring     of the packages installed here, read by `ast`; nothing is imported
    shuffled      a story with its words in random order
    replaced      a story in which 30 % of the words are words from anywhere in the stories
    boilerplate   some hundred templates of web pages with small changes, many near-duplicates

The same stories, packages and options give the same pool.
"""

import argparse
import ast
import json
import random
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from tinyohem.data.corpus import open_corpus
from tinyohem.data.story_hash import story_hash
from tinyohem.errors import InputError
from tinyohem.io.atomic import atomic_file

DOCSTRING_CHARACTERS = (200, 4000)
REPLACED_SHARE = 0.3
TEMPLATES = 300

_SENTENCES = """
We use cookies to improve your experience on {site}. By continuing you accept our cookie policy.
Copyright {year} {site}. All rights reserved.
Sign up for our newsletter and get {number} % off your first order.
Free shipping on all orders over ${number}. Terms and conditions apply.
Posted by {name} on {month} {number}, {year} in {topic}. {number} comments.
Click here to read more about {topic}. Share this on your favourite social network.
Please enable JavaScript in your browser to view this page.
Your password must be at least {number} characters long and contain one number.
Home | About us | Contact | {topic} | Privacy policy | Site map
This product is currently out of stock. Enter your e-mail to be notified when it is available.
Customers who bought this item also bought: {topic} set of {number}, {colour}.
Call us at 555-0{number} Monday to Friday from 9 am to 5 pm. Ask for {name}.
You are viewing page {number} of {number}. Next page. Previous page. Back to top.
Rated {number} out of 100 by {number} customers. Write a review.
Log in to your account to see prices. Forgot your password? Create an account.
The information on {site} is provided as is, without warranty of any kind.
Add to basket. Add to wish list. Compare. Colour: {colour}. Quantity: {number}.
This article needs additional citations. You can help by adding sources on {topic}.
Subscribe now for only ${number} a month and cancel at any time.
Advertisement. Scroll down to continue reading about {topic}.
Last updated {month} {number}, {year}. Report an error on this page.
Download the app from {site} to get the latest offers near you.
Tags: {topic}, {colour}, {month}, offers, news, reviews.
We have sent a confirmation link to your e-mail address. It is valid for {number} hours.
Item number {number}{number}. Weight {number} g. Dimensions {number} x {number} cm. {colour}.
Error {number}: the page you are looking for has moved. Return to the {site} start page.
Photo: {name} for {site}. Reproduction without permission is prohibited.
Follow {name} for more on {topic}. {number} followers.
Best price guaranteed: we refund the difference within {number} days.
The following {topic} are available in {colour}: small, medium, large, extra large.
"""
_SENTENCE_LIST = _SENTENCES.strip().splitlines()
_WORDS = """
site example.com shop24 dailynews bestdeals homeworld mytravel techpoint
name A.Miller admin editor J.Smith staff K.Jones webmaster
month January March April June August October December
topic shoes travel cooking laptops gardening insurance toys hotels music cars
colour red blue black white green silver
"""
_FILLERS = {name: words for name, *words in map(str.split, _WORDS.strip().splitlines())}


def main() -> None:
    """Write the pool and its target."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stories", help="a file of stories, or any name that --dataset takes")
    parser.add_argument("--junk", type=float, default=0.5, help="share of the pool, 0 to below 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=int, default=1000, help="stories that are in no pool")
    parser.add_argument("--out", type=Path, default=Path("pool.jsonl"))
    options = parser.parse_args()
    try:
        make_pool(options.stories, options.junk, options.seed, options.target, options.out)
    except InputError as error:
        parser.exit(2, f"error: {error.message}\nhint: {error.hint}\n")


def make_pool(source: str, junk: float, seed: int, targets: int, out: Path) -> None:
    """Write `out` and `target.jsonl` beside it.

    Raises:
        InputError: no such stories, too few of them, too few docstrings, or a share outside [0, 1).
    """
    if not 0 <= junk < 1:
        raise InputError(f"the share of junk is {junk:g}", "choose at least 0 and below 1")
    stories = list({story_hash(s.text): s.text for s in open_corpus(source).stories()}.values())
    random.Random(f"target {seed}").shuffle(stories)
    target, stories = stories[:targets], stories[targets:]
    rows = [("story", text) for text in stories]
    if not rows:
        raise InputError(f"{source} leaves no story for the pool", "choose a smaller --target")
    total = round(len(stories) * junk / (1 - junk))
    for number, (kind, make) in enumerate(KINDS.items()):
        count = (total + number) // len(KINDS)
        rows += [(kind, text) for text in make(stories, count, random.Random(f"{kind} {seed}"))]
    random.Random(f"order {seed}").shuffle(rows)
    _write(out, [{"text": text, "kind": kind} for kind, text in rows])
    _write(out.with_name("target.jsonl"), [{"text": text} for text in target])
    print(f"{out}: {len(rows):,} rows, {total:,} of them junk; target.jsonl: {len(target):,}")


def docstrings(_stories: list[str], count: int, rng: random.Random) -> list[str]:
    """Return docstrings of installed packages, each once, from files in random order."""
    files = _sources() if count else []
    rng.shuffle(files)
    found: dict[str, None] = {}
    for path in files:
        found |= dict.fromkeys(_docstrings_of(path))
        if len(found) >= count:
            return list(found)[:count]
    if len(found) < count:
        raise InputError(
            f"the installed packages hold {len(found):,} docstrings, {count:,} are needed",
            "choose a smaller --junk, or install the extra `dev`",
        )
    return []


def shuffled(stories: list[str], count: int, rng: random.Random) -> list[str]:
    """Return stories with their words in random order."""
    rows = _draw(stories, count, rng)
    return [_with_words(text, rng.sample(words := text.split(), len(words))) for text in rows]


def replaced(stories: list[str], count: int, rng: random.Random) -> list[str]:
    """Return stories in which `REPLACED_SHARE` of the words come from anywhere in the stories."""
    split = [text.split() for text in stories]
    rows = []
    for text in _draw(stories, count, rng):
        words = text.split()
        for place in rng.sample(range(len(words)), round(REPLACED_SHARE * len(words))):
            words[place] = rng.choice(rng.choice(split))
        rows.append(_with_words(text, words))
    return rows


def boilerplate(_stories: list[str], count: int, rng: random.Random) -> list[str]:
    """Return pages filled from a few templates."""
    templates = [rng.sample(_SENTENCE_LIST, rng.randint(5, 14)) for _ in range(TEMPLATES)]
    return [_fill(rng.choice(templates), rng) for _ in range(count)]


KINDS: dict[str, Callable[[list[str], int, random.Random], list[str]]] = {
    "docstring": docstrings,
    "shuffled": shuffled,
    "replaced": replaced,
    "boilerplate": boilerplate,
}


def _draw(stories: list[str], count: int, rng: random.Random) -> list[str]:
    """Return stories, each once until all have been drawn."""
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += rng.sample(stories, min(len(stories), count - len(drawn)))
    return drawn


def _with_words(text: str, words: list[str]) -> str:
    """Return a text with other words, as many, and its own white space, which tells nothing."""
    others = iter(words)
    return re.sub(r"\S+", lambda _: next(others), text)


def _fill(template: list[str], rng: random.Random) -> str:
    filled = {name: rng.choice(choices) for name, choices in _FILLERS.items()}
    filled |= {"number": str(rng.randint(1, 99)), "year": str(rng.randint(2015, 2025))}
    left_out = rng.randrange(2 * len(template))  # half of the rows are whole
    kept = [line for place, line in enumerate(template) if place != left_out]
    return "\n".join(kept).format(**filled)


def _sources() -> list[Path]:
    """Return the source files of the standard library and of what is installed beside it."""
    folders = {Path(name) for name in sys.path if name.endswith("-packages")}
    folders.add(Path(sysconfig.get_path("stdlib")))
    return sorted({path for folder in folders for path in folder.rglob("*.py")})


def _docstrings_of(path: Path) -> Iterator[str]:
    """Yield the docstrings of a usual length in a source file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in others' strings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return  # tests of parsers, templates
    least, most = DOCSTRING_CHARACTERS
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = (ast.get_docstring(node) or "").strip()
            if least <= len(text) <= most:
                yield text


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with atomic_file(path) as stream:
        for row in rows:
            stream.write(json.dumps(row).encode() + b"\n")


if __name__ == "__main__":
    main()
