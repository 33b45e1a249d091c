"""`python -m lila_train`, for torchrun."""

from lila_train.cli import main

if __name__ == "__main__":
    main()
