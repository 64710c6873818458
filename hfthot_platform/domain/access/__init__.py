"""Who may do what: plans and their limits, who asks, what they see, and the one question `authorise`.

What does not belong here: how somebody proves who they are (`services/accounts`), and counting what a plan limits.
"""
