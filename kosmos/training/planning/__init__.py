"""Training on paper: parameters, FLOPs, memory of each sharding, days; reckoned before anything is allocated."""
