"""What `make bench` runs: a module with a `main` is a benchmark, and declares in FIGURES what it measures.

FIGURES has, per kind of device ("cpu", "cuda"), the quantities and the bar that each must reach. A benchmark runs in a
process of its own, prints its detail and hands its figures back (`figures.hand_back`); `table` puts them side by side.
"""
