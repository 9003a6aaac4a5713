"""The tree as an SVG picture: no script, no request to anywhere, text escaped."""

from __future__ import annotations

from xml.sax.saxutils import escape

from wsi_pipeline.predictions.mds_counts.tree import Language, MdsTree
from wsi_pipeline.predictions.mds_counts.words import (
    DASHED,
    RESEARCH,
    SIMULATED,
    answer_of,
    condition,
    leaf_parts,
    tree_text,
)

_LEAF_WIDTH, _LEVEL_HEIGHT, _MARGIN, _TOP = 210, 108, 20, 98
_BOX_WIDTH, _BOX_HEIGHT = 190, 62
_POSITIVE, _NEGATIVE, _QUESTION = "#f6d5c3", "#d3e4f3", "#f4f4f4"
_TITLE = {"en": "Decision tree: {positive} or {negative}", "fr": "Arbre de décision : {positive} ou {negative}"}


def tree_svg(tree: MdsTree, language: Language) -> str:
    """Return the tree as an SVG document.

    Questions are grey, leaves coloured by their answer and named by it, so that colour is never the only sign; the
    branch that a missing value takes is dashed. The whole tree in words is the picture's description for screen
    readers.
    """
    x, depth = _places(tree)
    leaves = int(tree.is_leaf.sum())
    title = _TITLE[language].format(positive=tree.positive, negative=tree.negative)
    notes = [
        RESEARCH[language].format(positive=tree.positive),
        *([SIMULATED[language]] if tree.simulated else []),
        DASHED[language],
    ]
    # Six pixels a character is wide enough for the notes at their size.
    width = max(leaves * _LEAF_WIDTH, 6 * max(map(len, (title, *notes)))) + 2 * _MARGIN
    height = _TOP + (max(depth) + 1) * _LEVEL_HEIGHT + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-labelledby="title words" font-family="sans-serif" font-size="12">',
        f'<title id="title">{_safe(title)}</title>',
        f'<desc id="words">{_safe(tree_text(tree, language))}</desc>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(_MARGIN, 24, title, anchor="start", size=16, bold=True),
        *(_text(_MARGIN, 44 + 18 * i, note, anchor="start", size=11) for i, note in enumerate(notes)),
    ]
    top = [_TOP + d * _LEVEL_HEIGHT for d in depth]
    for number, node in enumerate(tree.nodes):
        if node.split is None:
            continue
        for below, child in ((True, node.split.below), (False, node.split.above)):
            dash = ' stroke-dasharray="5 3"' if (node.split.missing == "below") == below else ""
            parts.append(
                f'<line x1="{x[number]:.1f}" y1="{top[number] + _BOX_HEIGHT}" x2="{x[child]:.1f}" y2="{top[child]}" '
                f'stroke="#555555"{dash}/>'
            )
    for number, node in enumerate(tree.nodes):
        answer, counts, share = leaf_parts(tree, node, language)
        if node.split is None:
            fill = _POSITIVE if answer_of(tree, node) == tree.positive else _NEGATIVE
            parts += _box(x[number], top[number], fill, _short(answer), _short(counts), share, bold=True)
            continue
        yes, no = (condition(tree, node.split, below=below, language=language) for below in (True, False))
        parts += _box(
            x[number], top[number], _QUESTION, f"\u2199 {_short(yes)}", _short(counts), f"{_short(no)} \u2198"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _places(tree: MdsTree) -> tuple[list[float], list[int]]:
    """Return each node's middle and depth: leaves side by side from ``below`` to ``above``, parents over the middle."""
    depth = [0] * len(tree.nodes)
    for number, node in enumerate(tree.nodes):
        if node.split is not None:
            depth[node.split.below] = depth[node.split.above] = depth[number] + 1
    x = [0.0] * len(tree.nodes)
    waiting, leaves = [0], 0
    while waiting:
        number = waiting.pop()
        split = tree.nodes[number].split
        if split is None:
            x[number] = _MARGIN + (leaves + 0.5) * _LEAF_WIDTH
            leaves += 1
        else:
            waiting += [split.above, split.below]
    for number in reversed(range(len(tree.nodes))):
        split = tree.nodes[number].split
        if split is not None:
            x[number] = (x[split.below] + x[split.above]) / 2
    return x, depth


def _box(x: float, y: float, fill: str, first: str, second: str, third: str, *, bold: bool = False) -> list[str]:
    return [
        f'<rect x="{x - _BOX_WIDTH / 2:.1f}" y="{y}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="4" '
        f'fill="{fill}" stroke="#555555"/>',
        _text(x, y + 19, first, bold=bold),
        _text(x, y + 36, second),
        _text(x, y + 53, third),
    ]


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-size="{size}"{weight}>{_safe(text)}</text>'


def _short(text: str, longest: int = 28) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "\u2026"


def _safe(text: str) -> str:
    # XML 1.0 has no control characters, escaped or not.
    return escape("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text))
