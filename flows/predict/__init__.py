"""`rl4seg predict`: image files in, masks, error maps, pictures and tables out. Nothing here needs Prefect."""
