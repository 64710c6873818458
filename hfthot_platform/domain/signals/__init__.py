"""From market tables to the rows of `signals.*` and `portfolio.*`.

What goes here: which stretch of which table a model sees, and its results as rows of a contract.  What stays
out: the models themselves (`domain.models`), reading and writing tables, orchestration.  Frames in, frames
out; time is passed in, and nothing at or after it is used.
"""
