"""Make `tinyohem/difficulty/syllable_exceptions.txt` from the CMU Pronouncing Dictionary.

    python scripts/build_syllables.py cmudict.dict LICENSE

Both files are in https://github.com/cmusphinx/cmudict.
"""

import re
import sys
import textwrap
from collections import defaultdict
from pathlib import Path

from tinyohem.difficulty import syllables

OUT = Path(syllables.__file__).with_name(syllables.EXCEPTIONS_FILE)
WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")  # other entries are second pronunciations and symbols


def main(dictionary: Path, licence: Path) -> None:
    by_count: dict[int, list[str]] = defaultdict(list)
    for line in dictionary.read_text(encoding="utf-8").splitlines():
        word, *phones = line.split("#")[0].split()
        count = sum(phone[-1].isdigit() for phone in phones)  # vowels carry their stress
        # A word without a vowel ("shh") still takes a beat to read: the rule's 1 stands.
        if count and WORD.fullmatch(word) and count != syllables.count_by_rule(word):
            by_count[count].append(word)

    lines = [
        "# Words with other syllables than the rule's; from the CMU Pronouncing Dictionary.",
        "#",
    ]
    lines += [f"# {line}".rstrip() for line in licence.read_text(encoding="utf-8").splitlines()]
    for count, words in sorted(by_count.items()):
        wrapped = textwrap.wrap(" ".join(words), 96, break_on_hyphens=False)
        lines += [f"{count}: {part}" for part in wrapped]
    OUT.write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
