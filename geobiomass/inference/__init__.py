"""From tiles to a map: batches through the network, blending, steps, the plan."""
