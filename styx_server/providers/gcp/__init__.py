"""Rents machines from Google Compute Engine.

Imports Google's libraries only inside of functions: they take seconds to load, and a server without this provider
must not pay for them. `provider.py` has the verbs. `machine.py` says what a machine is to Google, and back;
`renting.py` makes one, `listing.py` finds them, `errors.py` understands refusals, `catalog.py` knows what there is
and what it costs, `checks.py` what is missing. Only `calls.py` holds connections.
"""

from styx_server.providers.gcp.provider import GcpProvider
from styx_server.providers.gcp.settings import GcpSettings

__all__ = ["GcpProvider", "GcpSettings"]
