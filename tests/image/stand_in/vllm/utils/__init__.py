"""Where newer versions of vLLM have their parser."""
