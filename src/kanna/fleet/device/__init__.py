"""The agent of a device."""
