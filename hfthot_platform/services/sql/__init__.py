"""SQL over the lake.  `engine` runs statements of the lab's own people on DuckDB, read-only."""

from hfthot_platform.services.sql.engine import Databases, Limits, SqlResult, SqlStream, opened, query

__all__ = ["Databases", "Limits", "SqlResult", "SqlStream", "opened", "query"]
