"""Worker processes on this machine, jobs on Kubernetes, how they end; the ``kfp`` command."""
