"""Recipes (YAML) and the programs: plan, prepare, recommenders, train, serve, evaluate, compare, reproduce, export.

Every recipe begins with the command that runs it. What the programs do is in `experiments`.
"""
