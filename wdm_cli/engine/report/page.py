"""HTML in small pieces; every text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "font-src data:; connect-src data: blob:; base-uri 'none'; form-action 'none'"
)
"""What the page may do: nothing but show itself. A browser refuses anything from a network."""


def document(title: str, body: str, style: str, tail: str) -> str:
    """A whole page; `tail` (data and scripts) comes after everything that is to be seen."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n{tail}\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what is under it; nothing where there is nothing."""
    content = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def paragraph(text: str, kind: str = "") -> str:
    return f"<p{_class(kind)}>{escape(text)}</p>" if text else ""


def listing(texts: Iterable[str], kind: str = "") -> str:
    return "\n".join(f"<div{_class(kind)}>{escape(text)}</div>" for text in texts)


def code(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def table(rows: Sequence[Sequence[object]], columns: Sequence[str] = ()) -> str:
    """Numbers are set so that their digits align."""
    if not rows:
        return ""
    head = "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in columns) + "</tr>\n" if columns else ""
    lines = []
    for row in rows:
        cells = [f"<td{_class('number' if _is_number(cell) else '')}>{escape(str(cell))}</td>" for cell in row]
        if not columns:
            cells[0] = f"<th>{escape(str(row[0]))}</th>"
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table>\n{head}{chr(10).join(lines)}\n</table></div>'


def image(source: str, description: str, caption: str = "", data: dict[str, str] | None = None) -> str:
    """A picture with its caption. data: attributes that the viewer reads."""
    attributes = "".join(f' data-{key}="{escape(value)}"' for key, value in (data or {}).items())
    caption = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure{attributes}><img src="{source}" alt="{escape(description)}">{caption}</figure>'


def box(kind: str, parts: Iterable[str]) -> str:
    """Parts that stand together."""
    content = "\n".join(part for part in parts if part)
    return f"<div{_class(kind)}>\n{content}\n</div>" if content else ""


def data_script(name: str, text: str) -> str:
    """Base64 that scripts find by its name and that is never shown."""
    return f'<script type="text/plain" id="{escape(name)}">{text}</script>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _is_number(cell: object) -> bool:
    text = str(cell).replace(",", "").removeprefix("± ")
    return text.replace(".", "").replace("-", "").replace("e", "").isdecimal()
