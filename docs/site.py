"""Build hooks of the documentation site: pages link to files of the repository, which the site
shows as pages of its own."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links that leave ``docs/`` at the site's copy, or leave their text alone."""
    place = Path(config["docs_dir"]) / page.file.src_uri

    def inside(match: re.Match[str]) -> str:
        label, target = match[1], (place.parent / match[2]).resolve()
        if target.is_relative_to(config["docs_dir"]):
            return match[0]
        if target == ROOT / "LOG.md":
            up = "../" * page.file.src_uri.count("/")
            return f"[{label}]({up}log.md{match[3] or ''})"
        return f"{label} (`{target.relative_to(ROOT)}`)"

    return re.sub(r"\[([^\]]+)\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)", inside, markdown)
