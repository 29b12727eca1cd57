"""Directory trees as artifacts; loaded when a tree is put or got, so that other clients stay light."""
