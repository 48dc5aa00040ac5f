"""The engine. wire: what the processes say; process: owns the model; supervisor: starts, feeds and restarts it."""
