"""Metrics, protocols, tables and pictures."""
