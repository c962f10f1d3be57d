"""The Dagster code location: definitions, jobs, schedules, sensors, and how a run is started from the command line."""
