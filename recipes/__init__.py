"""Recipes (YAML) and the eight programs: plan, prepare, recommenders, train, serve, evaluate, compare, export.

`cli` turns recipe files and command lines into checked dataclasses; `parts` builds catalogue, splits and backbone;
`measure` ranks runs and baselines; `sweep` trains what a comparison lacks and `comparison` writes it; `trl_rows` gives
rows TRL's form. Every recipe begins with the command that runs it.
"""
