"""Evaluation protocols, baselines and the harness that runs any model on any protocol."""
