"""Running the flows: server, pool, deployments, schedules, workers, and what becomes of runs that die."""
