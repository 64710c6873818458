"""Dagster resources: the handles that assets, jobs and sensors work with.

What goes here: construction of handles from settings.  What stays out: anything that reads or writes a table.
"""
