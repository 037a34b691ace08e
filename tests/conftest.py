"""For all tests: no example of a property is judged by how long it took."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("mq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mq")
