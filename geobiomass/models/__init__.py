"""Models that users train, save and load: one network, or several as one."""
