"""Replays sampled requests on candidates, compares their answers, and gives verdicts."""
