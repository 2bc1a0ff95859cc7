"""Findings as report.json, a page and pictures."""
