"""Rents pods of Kubernetes clusters: a machine is one pod with the agent in it, a region is a cluster.

`provider.py` has the verbs and `check.py` the diagnosis; `namespace.py` makes and deletes, `cluster.py` speaks. What a
pod looks like (`manifest.py`), what it says of itself (`pods.py`), what nodes have to offer (`nodes.py`) and what an
error means (`errors.py`) are values in, values out. May not import the client library where this is imported: it takes
seconds, so `cluster.py` loads it in a thread at the first call.
"""

from styx_server.providers.kubernetes.provider import KubernetesProvider
from styx_server.providers.kubernetes.settings import KubernetesSettings

__all__ = ["KubernetesProvider", "KubernetesSettings"]
