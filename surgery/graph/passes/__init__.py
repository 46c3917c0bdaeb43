"""Passes: functions from a GraphModule to a GraphModule."""
