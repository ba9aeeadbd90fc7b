"""A finished run against labels."""
