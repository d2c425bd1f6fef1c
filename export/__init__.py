"""From a student to a measured, verified bundle: graphs, precisions, parity, gates, benchmark."""
