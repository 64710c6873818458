"""Quantitative models: pure functions from typed arrays to frozen results with their diagnostics.

What belongs here: equations, estimators, simulations, and the checks of their inputs.  What does not: reading
or writing tables, orchestration, settings, clocks (time and seeds are passed in).  Modules import numba at
their top, because their loops are compiled; import a model where it is used, not in a definitions module.
"""
