"""What knows nothing of the platform: errors, settings, time, files, documents, compiling.

What belongs here could stand in any project.  What does not: tables, markets, people.
"""
