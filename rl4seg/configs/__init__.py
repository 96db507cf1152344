"""Settings of the core, one file per stage; free of torch so that reading a config costs nothing."""
