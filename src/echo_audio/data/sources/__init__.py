"""Labelled recordings from elsewhere: one file for each source."""
