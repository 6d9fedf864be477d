"""Fronts carry calls in."""
