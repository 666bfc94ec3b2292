// How a report looks: light and dark as the reader's system has it, and on paper.

export const STYLE = `
:root { color-scheme: light dark; --fg: #1c2024; --dim: #5f6b76; --bg: #fff; --box: #f3f5f7; --line: #c9d1d8;
  --active: #1a7f4b; --mirror: #0b7285; --sealed: #4a5a8c; --bad: #b42318; --warn: #8a5a00; --heat: #2563a8; }
@media (prefers-color-scheme: dark) {
  :root { --fg: #e4e8ec; --dim: #9aa7b3; --bg: #14181c; --box: #1e252b; --line: #3a454f; --active: #4cc38a;
    --mirror: #3bc9db; --sealed: #9db0f0; --bad: #ff8b7e; --warn: #e5b454; --heat: #6cb1ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem; color: var(--fg); background: var(--bg);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
p { margin: .3rem 0; }
.dim { color: var(--dim); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; color: var(--dim); font-size: .85rem; }
th, td { padding: .3rem .8rem .3rem 0; vertical-align: top; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
code, .path, text { font-family: ui-monospace, monospace; font-size: .85rem; overflow-wrap: anywhere; }
ul.findings { list-style: none; padding: 0; }
ul.findings li { border-left: 4px solid var(--line); padding: .1rem 0 .1rem .8rem; margin: .7rem 0; }
ul.findings li.error { border-color: var(--bad); }
ul.findings li.warning { border-color: var(--warn); }
.level { font-weight: 600; }
.error .level { color: var(--bad); }
.warning .level { color: var(--warn); }
pre { margin: .3rem 0; padding: .4rem .6rem; background: var(--box); white-space: pre-wrap; overflow-wrap: anywhere; }
.link { fill: none; stroke: var(--line); stroke-width: 1.5; }
.image rect { fill: var(--box); stroke: var(--line); stroke-width: 1.5; }
.image text { fill: var(--fg); font-size: 12px; }
.image .facts { fill: var(--dim); font-size: 11px; }
.active rect { stroke: var(--active); } .mirror rect { stroke: var(--mirror); stroke-dasharray: 5 3; }
.sealed rect { stroke: var(--sealed); } .bad rect { stroke: var(--bad); stroke-width: 2.5; }
svg { display: block; }
.strip { width: 100%; height: 14px; fill: var(--heat); }
.strip .empty { fill: var(--box); }
td.wide { width: 55%; }
@media print {
  :root { color-scheme: light; --fg: #000; --dim: #444; --bg: #fff; --box: #f0f0f0; --line: #999; --active: #1a7f4b;
    --mirror: #0b7285; --sealed: #4a5a8c; --bad: #b42318; --warn: #8a5a00; --heat: #2563a8; }
  body { padding: 0; max-width: none; font-size: 10pt; }
  .scroll { overflow: visible; } .scroll > svg { max-width: 100%; height: auto; }
  tr, li, svg { break-inside: avoid; } h2 { break-after: avoid; }
  .strip, .image rect, ul.findings li { print-color-adjust: exact; }
}
`;
