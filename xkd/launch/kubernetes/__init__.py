"""Jobs on a Kubernetes cluster: built, submitted and followed to their end."""
