"""Dagster sensors: the landing folder, failed runs, and the automation conditions.

What goes here: noticing that something happened, and asking for a run.  What stays out: the work itself.
"""
