"""GPU room: the reinforcement-learning core over torch and MONAI; usable as a library without Prefect."""
