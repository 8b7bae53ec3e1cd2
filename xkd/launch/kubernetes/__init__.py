"""Jobs on a Kubernetes cluster: made, started, followed to their end; what they run is not known here."""
