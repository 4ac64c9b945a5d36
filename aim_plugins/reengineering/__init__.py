"""`aim-plugins reengineer`: a smaller causal model for one task of multiple choice."""
