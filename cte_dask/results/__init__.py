"""What a RUN folder holds: scores, the experiment, result files, the log of sessions."""
