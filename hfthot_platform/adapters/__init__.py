"""The outside world: feeds and formats, whose oddities stop here.

`ports` says what they offer; a folder for each venue or family of formats; `recognise` finds out what a file is.
"""
