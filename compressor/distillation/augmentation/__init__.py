"""What the student reads beyond the target's own rows: texts of a source, refilled texts, and a learned choice."""
