"""The routes of the server of a fleet, by who asks."""
