"""The tree in words: its questions, its leaves, English and French."""

from __future__ import annotations

from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.predictions.mds_counts.tree import Language, MdsTree, Node, Split

RESEARCH = {
    "en": "Research use only; not a medical device. Asks whether a known cytopenia of an adult is {positive}.",
    "fr": "Recherche uniquement ; ce n'est pas un dispositif médical. Demande si une cytopénie connue de l'adulte "
    "est {positive}.",
}
SIMULATED = {
    "en": "SIMULATED: learnt from simulated values, not from patients. Says nothing about a patient.",
    "fr": "SIMULÉ : appris sur des valeurs simulées, non sur des patients. Ne dit rien d'un patient.",
}
_MISSING = {"en": "this way when missing", "fr": "par ici si absent"}
DASHED = {
    "en": "Dashed: the way of a patient whose value is missing.",
    "fr": "Pointillé : la voie d'un patient dont la valeur manque.",
}
_OF = {"en": "of", "fr": "sur"}
_CUT = {
    "en": "A leaf answers {positive} where its share of {positive} is above {cut} %, the share in the training table.",
    "fr": "Une feuille répond {positive} si sa part de {positive} dépasse {cut} %, la part dans la table "
    "d'apprentissage.",
}
_ORIGIN = {"en": "Trained on", "fr": "Appris sur"}
SEXES = {"en": ("male", "female"), "fr": ("homme", "femme")}
"""Of ``sex`` 0 and 1."""


def number(value: float, language: Language) -> str:
    """Return the shortest decimal that is the value, with a French comma where asked."""
    text = f"{value:.12g}"
    return text.replace(".", ",") if language == "fr" else text


def condition(tree: MdsTree, split: Split, *, below: bool, language: Language) -> str:
    """Return one answer to a question, such as ``MCV <= 93.5 fL``."""
    analyte = tree.analyte(split.analyte)
    if analyte.name == "sex" and 0 <= split.threshold < 1:
        return f"{analyte.short[language]}: {SEXES[language][0 if below else 1]}"
    sign = "<=" if below else ">"
    return f"{analyte.short[language]} {sign} {number(split.threshold, language)} {analyte.unit}".rstrip()


def answer_of(tree: MdsTree, node: Node) -> str:
    """Return the label that a leaf answers."""
    return tree.positive if node.share > tree.cut else tree.negative


def leaf_parts(tree: MdsTree, node: Node, language: Language) -> tuple[str, str, str]:
    """Return a node's answer, were it a leaf, its counts, and its share with the Wilson interval."""
    low, high = wilson(node.positives, node.patients)
    share, lower, upper = (number(round(100 * part, 1), language) for part in (node.share, low, high))
    counts = f"{tree.positive} {node.positives} {_OF[language]} {node.patients}"
    return answer_of(tree, node), counts, f"{share} % ({lower} - {upper} %)"


def leaf_words(tree: MdsTree, node: Node, language: Language) -> str:
    """Return :func:`leaf_parts` in one line."""
    answer, counts, share = leaf_parts(tree, node, language)
    return f"{answer}  [{counts}: {share}]"


def path_words(tree: MdsTree, leaf: int, language: Language) -> str:
    """Return the questions from the root to a node, joined by semicolons; empty for the root."""
    parts: list[str] = []
    while leaf:
        parent, below = _parent(tree, leaf)
        split = tree.nodes[parent].split
        assert split is not None
        parts.append(condition(tree, split, below=below, language=language))
        leaf = parent
    return "; ".join(reversed(parts))


def tree_text(tree: MdsTree, language: Language) -> str:
    """Return the whole tree as indented lines, with what it rests on."""
    lines = [RESEARCH[language].format(positive=tree.positive)]
    if tree.simulated:
        lines.append(SIMULATED[language])
    lines.append(f"{_ORIGIN[language]}: {tree.trained_on}.")
    lines.append(_CUT[language].format(positive=tree.positive, cut=number(round(100 * tree.cut, 1), language)))
    lines.append("")
    waiting: list[tuple[int, int, str]] = [(0, 0, "")]
    while waiting:
        index, depth, prefix = waiting.pop()
        node = tree.nodes[index]
        if node.split is None:
            lines.append("  " * depth + prefix + ("  ->  " if prefix else "") + leaf_words(tree, node, language))
            continue
        if prefix:
            lines.append("  " * depth + prefix)
        inner = depth + 1 if prefix else depth
        for below, child in ((False, node.split.above), (True, node.split.below)):
            words = condition(tree, node.split, below=below, language=language)
            if (node.split.missing == "below") == below:
                words += f"  ({_MISSING[language]})"
            waiting.append((child, inner, words))
    return "\n".join(lines) + "\n"


def _parent(tree: MdsTree, child: int) -> tuple[int, bool]:
    for index, node in enumerate(tree.nodes):
        if node.split is not None and child in (node.split.below, node.split.above):
            return index, child == node.split.below
    raise ValueError(f"node {child} has no parent")
