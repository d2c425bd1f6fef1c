"""From labelled text to a verified bundle: recipe, data, teacher, student, evaluation and report."""
