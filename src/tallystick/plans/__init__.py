"""Plans, their versions, subscriptions and limit overrides."""
