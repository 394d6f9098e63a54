"""How the page looks: the whole of its style sheet, light and dark, from 400 pixels on."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --text: #1c2530; --dim: #5a6675;
  --line: #d8dee6; --ok: #12703a; --warning: #8a5200; --critical: #b3151f; --unknown: #1f5fa8;
  --curve: #1f5fa8; --fill: #1f5fa822; }
@media (prefers-color-scheme: dark) { :root { --back: #12161c; --card: #1a2028; --text: #e4e9ef;
  --dim: #9aa7b6; --line: #303a46; --ok: #5fd08b; --warning: #f0b35a; --critical: #ff8a86;
  --unknown: #86b8f5; --curve: #86b8f5; --fill: #86b8f522; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 16px; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
header { display: flex; flex-wrap: wrap; gap: 4px 16px; align-items: baseline; margin-bottom: 12px; }
h1 { font-size: 18px; margin: 0; }
h2 { font-size: 20px; margin: 0; }
h3 { font-size: 15px; margin: 20px 0 8px; }
h3 .dim { font-size: 13px; font-weight: 400; }
p { margin: 0; }
a { color: inherit; }
.dim, header p { color: var(--dim); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px;
  margin-bottom: 16px; }
.head { display: flex; flex-wrap: wrap; gap: 4px 16px; align-items: baseline; margin-bottom: 12px; }
.ok { color: var(--ok); } .warning { color: var(--warning); }
.critical { color: var(--critical); } .unknown { color: var(--unknown); }
.verdict, td.state { font-weight: 600; }
.stale { border: 2px solid var(--critical); border-radius: 8px; padding: 8px 12px; margin-bottom: 12px; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-size: 12px; font-weight: 600; color: var(--dim); }
th, td { padding: 6px 18px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td:last-child, th:last-child { padding-right: 0; }
tr:last-child td { border-bottom: 0; }
.right { text-align: right; white-space: nowrap; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr));
  gap: 16px; }
figure { margin: 0; min-width: 0; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 12px; font-size: 13px; }
.said { flex-basis: 100%; }
svg { display: block; width: 100%; height: 64px; border-bottom: 1px solid var(--line); }
.curve { fill: none; stroke: var(--curve); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.area { fill: var(--fill); stroke: none; }
.limit { stroke: var(--critical); stroke-width: 1; stroke-dasharray: 4 4; vector-effect: non-scaling-stroke; }
ul { margin: 0; padding: 0; list-style: none; }
li { padding: 6px 0; border-top: 1px solid var(--line); }
li:first-child { border-top: 0; }
li b { font-weight: 600; }
@media (max-width: 760px) {
  body { padding: 10px; }
  section { padding: 12px; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, tbody { display: block; }
  tr { display: grid; grid-template-columns: 1fr 1fr; gap: 0 12px; padding: 8px 0;
    border-bottom: 1px solid var(--line); }
  tr:last-child { border-bottom: 0; }
  td, td.right { border: 0; padding: 2px 0; text-align: left; white-space: normal; min-width: 0; }
  td::before { content: attr(data-name) " "; font-size: 12px; font-weight: 400; color: var(--dim); }
  td.node::before, td.state::before { content: ""; }
  td.node { font-size: 16px; }
  td.none { display: none; }
}
"""

_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{_HASH}'",
        "img-src data:",  # the empty icon, so that no browser asks for one
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Nothing is loaded, nothing runs; this style sheet is the only one that counts."""
