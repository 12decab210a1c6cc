"""Load on an OpenAI-compatible engine: some streams, a kind of text that can change, figures as they come."""

from traffic.call import Call, Summary
from traffic.generator import Traffic
from traffic.meter import Meter

__all__ = ["Call", "Meter", "Summary", "Traffic"]
