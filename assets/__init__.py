"""Dagster assets: one module per group of tables.

An asset body is a short story: read, call the library, check, commit, return metadata.  Arithmetic, SQL and
I/O details live in `hfthot_platform`; what all assets have in common (metadata, checks, retry and automation
policy) is in `common`; wiring is in `hfthot_platform.definitions`.
"""

import warnings

import dagster as dg

# Dagster is pinned to one version, so a notice that an API may change in the next one tells nothing at run time.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
