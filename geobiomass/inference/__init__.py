"""Inference: settings, batches of tiles, blending, post-processing, the plan."""
