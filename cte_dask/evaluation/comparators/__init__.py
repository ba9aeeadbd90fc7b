"""Scores that CTE is compared with: CCFV (supervised), entropy and confidence."""
