"""Build hook of the documentation site: links to files outside ``docs/`` become plain text."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replace links that leave ``docs/`` by their text and the path in the repository."""
    source = Path(config["docs_dir"]) / page.file.src_uri

    def without_link(match: re.Match[str]) -> str:
        label, target = match[1], (source.parent / match[2]).resolve()
        if target.is_relative_to(config["docs_dir"]):
            return match[0]
        return f"{label} (`{target.relative_to(ROOT)}`)"

    return re.sub(r"\[([^\]]+)\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)", without_link, markdown)
