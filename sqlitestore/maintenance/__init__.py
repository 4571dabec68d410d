"""Questions about a whole store, and work on it: functions over an open store."""
