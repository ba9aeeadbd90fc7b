"""What a person sees of a run: tables, progress, result files."""
