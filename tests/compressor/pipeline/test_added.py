"""Which of the added texts a student reads, and that none are none."""
