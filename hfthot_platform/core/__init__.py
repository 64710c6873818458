"""What knows nothing of the platform, each thing once: errors, settings, time, files, locks, retries, DuckDB shut in.

What belongs here could stand in any project.  What does not: tables, markets, people.
"""
