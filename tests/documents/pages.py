"""The pages of the documentation, and the commands and code that stand in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
INLINE = re.compile(r"(?<!`)`(?P<text>[^`\n]+)`(?!`)")
PROGRAMS = {"cte", "dask", "make", "pip", "python", "sbatch"}
"""What a command in a page may begin with; a test wants a case for each."""
NOT_RUN = {"", "yaml", "text", "{eval-rst}", "{toctree}"}
"""Languages of blocks that hold no commands; of ``{include}`` the page included is looked at."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def pages() -> list[Path]:
    """Every page whose commands a user or a contributor may type."""
    folders = [p for f in ("docs", "deploy") for p in sorted((REPOSITORY / f).rglob("*.md"))]
    top = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")]
    return [*top, *folders, REPOSITORY / "examples" / "README.md"]


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of some languages, of all pages; of all languages if none is named."""
    found = []
    for page in pages():
        text = page.read_text()
        for match in FENCE.finditer(text):
            language = match["language"].strip().partition(" ")[0]
            if not languages or language in languages:
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(page, line, language, match["text"]))
    return found


def commands(block: Block) -> list[str]:
    """The commands of a block, continued lines joined and comments left out."""
    joined = block.text.replace("\\\n", " ")
    kept = (without_comment(line) for line in joined.splitlines())
    return [line for line in kept if line]


def without_comment(line: str) -> str:
    return re.sub(r"(^|\s)#.*$", "", line).strip()


def inline_commands() -> list[tuple[str, str]]:
    """Page and text of what stands in backticks and begins as a command does."""
    found = []
    for page in pages():
        prose = FENCE.sub("", page.read_text())
        for match in INLINE.finditer(prose):
            words = match["text"].split()
            if len(words) > 1 and words[0] in PROGRAMS:
                found.append((str(page.relative_to(REPOSITORY)), match["text"]))
    return found


def words_of(command: str) -> list[str]:
    """A command's words as a shell would cut them."""
    return shlex.split(command)
