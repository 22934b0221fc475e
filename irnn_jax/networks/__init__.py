"""What is solved: networks and cells, each as a problem with products."""
