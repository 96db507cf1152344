"""Orchestration room: Prefect flows over cached stages, the command line and the report. No arithmetic."""
