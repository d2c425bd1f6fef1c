"""Teacher and student: finding checkpoints, choosing layers, several heads on one encoder."""
