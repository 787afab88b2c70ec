"""What a verdict looks like on GitHub: job summary, annotations, one comment per pull request, step outputs."""
