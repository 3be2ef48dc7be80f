r"""What in a text is notation and no language: code between back quotes, LaTeX formulas and commands.

A derivation in Chinese writes ``\frac{a}{b}`` and ``print`` like anybody else; counted as English words they would make
the language reward a punishment for mathematics.
"""

from __future__ import annotations

import re

# Braces are followed three deep. Every part is possessive or cannot meet its own beginning again, so
# that no text, however broken, takes more than linear time.
_BRACES = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*+\})*+\})*+\}"
_NOTATION = re.compile(
    r"""
      ```(?:(?!```).)*+(?:```|\Z)                # a fenced block; the cut end of a completion closes it
    | `[^`\n]*+`
    | \$\$[^$]*+\$\$
    | \$(?=[^\s$])[^$\n]*+(?<!\s)\$(?!\d)        # a formula; but in "$5 and $6" there is none
    | \\\((?:(?!\\[()]).)*+\\\)
    | \\\[(?:(?!\\[\[\]]).)*+\\\]
    | \\[A-Za-z]++(?:BRACES)*+                   # a command outside of a formula, with its arguments
    """.replace("BRACES", _BRACES),
    re.VERBOSE | re.DOTALL,
)


def without_notation(text: str) -> str:
    r"""``text`` with a space for every formula (``$..$``, ``$$..$$``, ``\(..\)``, ``\[..\]``), LaTeX command with its
    arguments (``\boxed{..}``), code block and back-quoted name. An opening without its end stays text, but for a code
    block's: a completion may be cut there."""
    return _NOTATION.sub(" ", text)
