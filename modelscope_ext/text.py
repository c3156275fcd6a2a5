"""Text from strangers (names of files, tags, cards, messages of decoders) in lines that are safe to print."""

from collections.abc import Mapping


def printable(text: object) -> str:
    """Return a text in one line: line feeds, control characters and terminal sequences are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def lines_of(problems: Mapping[str, str]) -> list[str]:
    """Return one indented line for each file and its problem."""
    return [f"  {printable(name)}: {printable(reason)}" for name, reason in problems.items()]


def table_cell(text: object) -> str:
    """Return a text as a cell that no spreadsheet takes for a formula."""
    line = printable(text)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line
