"""The outside world: feeds and files."""
