"""MDS against non-clonal cytopenia from analyser values (task ``mds_cbc``): a readable tree that users train."""

from wsi_pipeline.predictions.mds_counts.answers import TASK, MdsAnswer, answer_patients, answers_csv
from wsi_pipeline.predictions.mds_counts.drawing import tree_svg
from wsi_pipeline.predictions.mds_counts.tree import TREE_FILE, MdsTree, Node, Split, TreeAnalyte, read_tree, write_tree
from wsi_pipeline.predictions.mds_counts.words import tree_text

__all__ = [
    "TASK",
    "TREE_FILE",
    "MdsAnswer",
    "MdsTree",
    "Node",
    "Split",
    "TreeAnalyte",
    "answer_patients",
    "answers_csv",
    "read_tree",
    "tree_svg",
    "tree_text",
    "write_tree",
]
