"""The contracts Report and Verdict, the records behind a report, and their views."""
