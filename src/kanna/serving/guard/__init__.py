"""Who may use the gateway, how much, and what is recorded of it."""
