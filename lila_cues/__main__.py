"""`python -m lila_cues`."""

from lila_cues.cli import main

if __name__ == "__main__":
    main()
