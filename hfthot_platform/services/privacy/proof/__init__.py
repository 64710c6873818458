"""The search for what is left of a person: places, containers, encodings, readers."""
