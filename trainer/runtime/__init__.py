"""Processes and files of a run: how it is launched, stopped, resumed and exported."""
