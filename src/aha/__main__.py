"""``python -m aha``."""

from __future__ import annotations

from aha.cli import main

if __name__ == "__main__":
    main()
