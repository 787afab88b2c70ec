"""A stand-in for vLLM where there is no GPU.

It speaks the OpenAI protocol, publishes vLLM's metrics, takes its time from a small model of continuous batching, and
can be made ill on purpose. What is tested against it must not be able to tell the difference where the difference
matters: names and buckets of metrics, shapes of answers, the order of events, the ways in which a server fails.

It imports nothing else of servegate, so that nothing it is meant to check can leak into it. Start it with
`servegate simulator` or `python -m servegate.simulator`.
"""
