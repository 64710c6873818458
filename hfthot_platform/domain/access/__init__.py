"""Who may do what: plans and their limits."""
