"""Dagster jobs and their schedules.

What goes here: which assets run together, and when.  What stays out: what they do.
"""
