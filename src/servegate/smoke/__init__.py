"""Smoke: is it up, is it this release, does it stream, does it refuse nonsense?"""
