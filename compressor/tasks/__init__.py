"""Task types: what each learns from and how it is judged, one file per type."""
