"""Measuring: decode latency by stage, entropy coders beside their peers, kernels, scaling.

Nothing here is imported by the codec. Every benchmark checks the results of what it times.
"""
