"""Run folders and what is in them: images, checkpoints, metrics log, feature index, outputs."""
