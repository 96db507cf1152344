"""What a run shows of itself: the report, its tables and figures, the pictures of stages."""
