"""What `make bench` runs: a module with a `main` is a benchmark, and declares in FIGURES what it measures.

FIGURES has the quantities and the bar that each must reach. A benchmark runs in a process of its own on the CPU, prints
its detail and hands its figures back (`figures.hand_back`); `table` puts them side by side. Figures of a GPU are in
`tests/gpu/measure.py`.
"""
