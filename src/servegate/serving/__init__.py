"""What the image adds to vLLM: an entry point that refuses a wrong configuration at once and hurts nobody at its end.

It runs inside the image, on whatever Python the engine brings, so it needs the standard library only and imports
nothing else of servegate.
"""
