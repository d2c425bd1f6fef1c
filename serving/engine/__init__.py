"""From admitted texts to logits: cost model, scheduler, admission, lanes, and the engine that joins them. No HTTP."""
