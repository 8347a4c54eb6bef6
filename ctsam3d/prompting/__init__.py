"""Where clicks come from: a coarse network over the whole volume, an existing mask, or a person."""
