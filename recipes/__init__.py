"""Recipes (YAML) and the five entry points that run them: prepare, recommenders, train, evaluate, compare.

`cli` turns recipe files and command lines into checked dataclasses; `parts` builds catalogue, splits and backbone;
`measure` ranks runs and baselines. Every recipe begins with the command that runs it.
"""
