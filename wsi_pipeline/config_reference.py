"""The configuration reference, written from the models themselves: ``python -m wsi_pipeline.config_reference FILE``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from wsi_pipeline.atomic import write_text
from wsi_pipeline.config import CONFIG_NAMES, PipelineConfig, load_config
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.runtime.cluster_config import SlurmConfig, TlsFiles

_HEAD = f"""\
# Configuration

Written by `python -m wsi_pipeline.config_reference docs/configuration.md` from the models in `wsi_pipeline/config.py`
and `wsi_pipeline/runtime/cluster_config.py`; a test fails when this page is not current. Do not edit it.

A run's configuration is one tree. It starts from a shipped file in `configs/`
({", ".join(CONFIG_NAMES)}), then
come the keys of the YAML file given with `--config`, then each `--set section.key=value`. A file needs only the keys
that differ. Keys and values that are not listed here are refused; nothing is ignored. `run --dry-run` resolves and
checks everything before work starts, and `run.json` keeps the tree as resolved.

```yaml
# mine.yaml: wsi-pipeline run slides/ --config mine.yaml
specimen: marrow_smear
tiling: {{core_px: 1024}}
predictions: {{min_cells: 300}}
```

In the column *default* the shipped configurations that differ are named.
"""

_CLUSTER = """\
# Cluster file

A file of its own, given with `--cluster-config`. `interface`, `tls`, `scratch` and `death_timeout_s` are for every
cluster, the others for `--cluster slurm`. How they work together: [hpc.md](hpc.md).
"""


def configuration_page() -> str:
    """Return the reference of all keys as Markdown: values allowed, defaults, meaning.

    Examples
    --------
    >>> page = configuration_page()
    >>> "| `core_px` | integer, 256 to 16384 | `2048` |" in page
    True
    """
    schema = PipelineConfig.model_json_schema()
    shipped = {name: load_config(name) for name in CONFIG_NAMES}
    parts = [_HEAD, *_section("", PipelineConfig, schema, schema, shipped)]
    for name in PipelineConfig.model_fields:
        if isinstance(model := getattr(shipped[CONFIG_NAMES[0]], name), BaseModel):
            of_each = {config: getattr(tree, name) for config, tree in shipped.items()}
            parts += _section(name, type(model), _resolve(schema["properties"][name], schema), schema, of_each)
    cluster = SlurmConfig.model_json_schema()
    parts += [_CLUSTER, *_section("keys", SlurmConfig, cluster, cluster, {"slurm": SlurmConfig()})]
    for name, model_of in (("jobs", type(SlurmConfig().jobs)), ("tls", TlsFiles)):
        of_key = {"slurm": SlurmConfig().jobs} if name == "jobs" else {}
        own = model_of.model_json_schema()
        parts += _section(f"{name}, where it is a mapping" if name == "tls" else name, model_of, own, own, of_key)
    return "\n".join(parts)


def _section(
    name: str,
    model: type[BaseModel],
    schema: Mapping[str, Any],
    root: Mapping[str, Any],
    shipped: Mapping[str, BaseModel],
) -> Iterator[str]:
    """Yield the heading and the table of one section; keys that are sections themselves have tables of their own."""
    yield f"## {name or 'The tree'}\n"
    if model.__doc__:
        yield f"{model.__doc__.splitlines()[0]}\n"
    yield "| key | values | default | what |\n|---|---|---|---|"
    rows = []
    for key, field in model.model_fields.items():
        entry = schema["properties"][key]
        default = _default(key, shipped) if shipped else "required"
        if default is None:
            rows.append(f"| `{key}` | section | below | {_first_line(entry, root)} |")
            continue
        rows.append(f"| `{key}` | {_values(entry, root)} | {default} | {_cell(field.description or '')} |")
    yield "\n".join(rows) + "\n"


def _default(key: str, shipped: Mapping[str, BaseModel]) -> str | None:
    """Return the default in words, naming the shipped configurations that differ; None for a section."""
    values = {name: getattr(tree, key) for name, tree in shipped.items()}
    first, *others = values
    if isinstance(values[first], BaseModel):
        return None
    told = [_literal(values[first])]
    for value in dict.fromkeys(_literal(values[name]) for name in others):
        if value != told[0]:
            told.append(f"{', '.join(n for n in others if _literal(values[n]) == value)}: {value}")
    return "; ".join(told)


def _literal(value: Any) -> str:
    """Return a value as it is written in YAML."""
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value, default=str)}`".replace('"', "")


def _values(entry: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """Return in words what JSON schema allows."""
    entry = _resolve(entry, root)
    if "anyOf" in entry:
        return " or ".join(_values(one, root) for one in entry["anyOf"])
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    if "const" in entry:
        return f"`{entry['const']}`"
    kind = entry.get("type", "")
    if kind == "null":
        return "`null`"
    if kind == "array":
        return f"list of {_values(entry['items'], root)}"
    if kind == "object":
        return "mapping"
    words = {"integer": "integer", "number": "number", "boolean": "`true`, `false`", "string": "text"}[kind]
    return ", ".join([words, *_bounds(entry)])


def _bounds(entry: Mapping[str, Any]) -> list[str]:
    low, high = entry.get("minimum"), entry.get("maximum")
    above, below = entry.get("exclusiveMinimum"), entry.get("exclusiveMaximum")
    if low is not None and high is not None:
        return [f"{low} to {high}"]
    named = (("at least", low), ("above", above), ("at most", high), ("below", below))
    return [f"{word} {value}" for word, value in named if value is not None]


def _resolve(entry: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in entry:
        resolved: Mapping[str, Any] = root["$defs"][entry["$ref"].rsplit("/", 1)[1]]
        return resolved
    return entry


def _first_line(entry: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    return _cell(str(_resolve(entry, root).get("description", "")).splitlines()[0])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str]) -> None:
    """Write the page to the one file named."""
    if len(arguments) != 1:
        raise ConfigError("one argument is needed: the file to write, docs/configuration.md")
    write_text(Path(arguments[0]), configuration_page())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"error: {error}")
