"""What the student learns from: a sum of named loss terms."""
