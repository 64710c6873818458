"""One module per revision of the operational store's schema, in order."""
