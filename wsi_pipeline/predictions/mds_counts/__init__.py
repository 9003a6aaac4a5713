"""MDS against non-clonal cytopenia from analyser values (task ``mds_cbc``): a readable tree that users train."""

from wsi_pipeline.predictions.mds_counts.answers import (
    PANEL,
    TASK,
    MdsAnswer,
    answer_patients,
    answers_csv,
    without_cytopenia,
)
from wsi_pipeline.predictions.mds_counts.drawing import tree_svg
from wsi_pipeline.predictions.mds_counts.table import predict_mds_counts
from wsi_pipeline.predictions.mds_counts.tree import TREE_FILE, MdsTree, Node, Split, TreeAnalyte, read_tree, write_tree
from wsi_pipeline.predictions.mds_counts.words import tree_text

__all__ = [
    "PANEL",
    "TASK",
    "TREE_FILE",
    "MdsAnswer",
    "MdsTree",
    "Node",
    "Split",
    "TreeAnalyte",
    "answer_patients",
    "answers_csv",
    "predict_mds_counts",
    "read_tree",
    "tree_svg",
    "tree_text",
    "without_cytopenia",
    "write_tree",
]
