"""Data room: cases on disk, what a valid mask is, how bad masks are made, the reward dataset. No torch."""
