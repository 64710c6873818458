"""Market data: sources, bars, the universe, completeness, the simulated exchange.

Pure functions and adapters over Polars frames.  Nothing here knows Dagster or Delta, and nothing reads the
clock or the environment: time is passed in.
"""
