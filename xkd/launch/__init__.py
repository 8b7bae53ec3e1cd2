"""Starting work: workers on this machine, jobs on a cluster, and how they end."""
