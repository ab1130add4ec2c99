"""Python source files as the text of a language model: tokens, vocabulary, held-out files."""

import sys
import tokenize
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

UNKNOWN = "<unk>"
START = "<start>"
CONTEXT = 8
HELD_OUT_EVERY = 20

# Tests, installed packages, and tables written by a program: long, and easy to guess.
_SKIPPED_DIRECTORIES = {
    "test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages", "encodings",
    "pydoc_data",
}  # fmt: skip
_SKIPPED_TOKENS = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
_LAYOUT_TOKENS = {
    tokenize.NEWLINE: "<newline>",
    tokenize.INDENT: "<indent>",
    tokenize.DEDENT: "<dedent>",
}


def python_files(root: Path) -> list[Path]:
    """Return the Python files below `root` in a fixed order, without tests and tables."""
    return [
        path
        for path in sorted(root.rglob("*.py"))
        if path.is_file() and _SKIPPED_DIRECTORIES.isdisjoint(path.relative_to(root).parts)
    ]


def words(lines: Iterable[bytes]) -> Iterator[str]:
    """Yield the tokens of Python source as words; comments and blank lines are left out."""
    lines = iter(lines)
    for token in tokenize.tokenize(lambda: next(lines, b"")):
        if token.type not in _SKIPPED_TOKENS:
            # One object per distinct word: a corpus repeats few words a million times.
            yield _LAYOUT_TOKENS.get(token.type) or sys.intern(token.string)


def read(paths: Iterable[Path], done: Callable[[], None]) -> list[list[str]]:
    """Tokenise the files, skipping those that are no valid Python; `done` is called per file."""
    documents = []
    for path in paths:
        try:
            with path.open("rb") as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the style of the code that is read
                document = list(words(file))
        except (OSError, SyntaxError, UnicodeDecodeError, tokenize.TokenError):
            document = []
        if document:
            documents.append(document)
        done()
    return documents


class Vocabulary:
    """The most frequent words of some documents, and one word for all the others."""

    def __init__(self, documents: list[list[str]], size: int) -> None:
        counts = Counter(word for document in documents for word in document)
        common = counts.most_common(size - 2)
        self.words = [UNKNOWN, START, *(word for word, _ in common)]
        self._index = {word: index for index, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, document: Iterable[str]) -> list[int]:
        """Return the index of each word; index 0 stands for the unknown ones."""
        return [self._index.get(word, 0) for word in document]


@dataclass(frozen=True)
class Text:
    """Documents as word indices in one array, and the positions that are to be predicted."""

    ids: NDArray[np.int32]
    positions: NDArray[np.intp]

    @classmethod
    def encode(cls, documents: list[list[str]], vocabulary: Vocabulary) -> "Text":
        """Join the documents; each begins with a context of ``<start>``, which is not predicted."""
        padding = vocabulary.encode([START]) * CONTEXT
        ids: list[int] = []
        predicted: list[bool] = []
        for document in documents:
            ids += padding + vocabulary.encode(document)
            predicted += [False] * CONTEXT + [True] * len(document)
        return cls(np.array(ids, np.int32), np.flatnonzero(predicted))

    @property
    def targets(self) -> NDArray[np.int32]:
        """Every word that is to be predicted."""
        return self.ids[self.positions]

    def examples(self, positions: NDArray[np.intp]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the contexts (n, CONTEXT) before some positions, and the words (n,) there."""
        before = np.arange(-CONTEXT, 0)
        return self.ids[positions[:, None] + before], self.ids[positions]

    def __len__(self) -> int:
        return len(self.positions)


def split(documents: list[list[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Hold out every twentieth document; return those to train on and those to evaluate on."""
    held_out = documents[::HELD_OUT_EVERY]
    training = [document for index, document in enumerate(documents) if index % HELD_OUT_EVERY != 0]
    return training, held_out
