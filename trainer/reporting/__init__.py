"""What a run says of itself: its folder, metrics with their help, tables of trajectories, trackers."""
