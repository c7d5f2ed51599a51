"""Text that may be anybody's, as a terminal can show it without doing what it says."""

import re
import sys

# Control characters but tab and line feed, what turns the direction of a line around, and halves of characters.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with each control character as its number: names and tokens may hold the commands of a terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def say(text: str = "", end: str = "\n") -> None:
    """Print on stdout."""
    print(visible(text), end=end, flush=not end)


def warn(text: str) -> None:
    """Print on stderr, where progress, notes and errors go."""
    # In one write: what a signal interrupts is a whole line, or nothing.
    print(f"{visible(text)}\n", end="", file=sys.stderr, flush=True)
