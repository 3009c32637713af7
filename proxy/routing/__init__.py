"""From a statement's facts and the nodes' state to a node. No input or output."""
