"""The style sheet of the page: light and dark, screen and paper."""

CSS = """
:root { color-scheme: light dark; --ink: #1c2024; --muted: #60646c; --paper: #ffffff;
  --panel: #f6f7f9;
  --line: #d9dce1; --accent: #0b7a55; --warn: #8a4b00; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --muted: #a5abb5; --paper: #14161a;
  --panel: #1d2026;
  --line: #383c44; --accent: #4cc38a; --warn: #f5b95b; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 28px 20px 60px; color: var(--ink);
  background: var(--paper);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 34px 0 10px; }
.muted { color: var(--muted); }
.pick { border: 1px solid var(--accent); border-left-width: 6px; border-radius: 8px;
  padding: 14px 18px;
  background: var(--panel); margin: 18px 0; }
.pick p { margin: 8px 0 0; }
.pick .kicker { color: var(--accent); font-weight: 600; margin: 0; }
.pick.failed { border-color: var(--bad); } .pick.failed .kicker { color: var(--bad); }
.pick .file { font-size: 1.45rem; font-weight: 700; margin: 2px 0 10px; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(46%, 200px), 1fr));
  gap: 10px; margin-bottom: 12px; }
.tile { background: var(--paper); border: 1px solid var(--line); border-radius: 8px;
  padding: 8px 12px; display: flex; flex-direction: column; min-width: 0; }
.tile .value { font-size: 1.3rem; font-weight: 650; line-height: 1.3; }
.name { color: var(--muted); font-size: .85rem; }
.tile .more { color: var(--muted); font-size: .85rem; line-height: 1.4; }
.copy { display: flex; gap: 4px 12px; align-items: baseline; flex-wrap: wrap; }
.copy .name { min-width: 4.2em; }
.copy code { user-select: all; -webkit-user-select: all; cursor: copy; flex: 1 1 240px;
  background: var(--paper); border: 1px solid var(--line); border-radius: 6px; padding: 5px 10px;
  overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; }
.copy code:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.grade { border: 1px solid currentcolor; border-radius: 9px; padding: 0 8px; font-size: .82rem;
  margin-right: 8px; }
.grade.near-identical, .grade.close { color: var(--accent); } .grade.fair { color: var(--ink); }
.grade.weak { color: var(--warn); } .grade.poor { color: var(--bad); }
.note { border-left: 4px solid var(--warn); padding: 6px 14px; margin: 10px 0;
  background: var(--panel); }
.chart { width: 100%; height: auto; background: var(--panel); border: 1px solid var(--line);
  border-radius: 8px; }
.chart.narrow { display: none; }
@media (max-width: 560px) { .chart.wide { display: none; } .chart.narrow { display: block; } }
.chart text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.chart .tick, .chart .axis { fill: var(--muted); }
.chart .tick { font-size: 12px; }
.chart .label { font-weight: 600; paint-order: stroke; stroke: var(--panel); stroke-width: 3px; }
.chart .best { fill: var(--accent); }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart .floor { stroke: var(--muted); stroke-width: 1.5; stroke-dasharray: 6 5; }
.chart .dot { fill-opacity: .88; stroke: var(--ink); stroke-width: 1; }
.chart .sample { fill: none; stroke: var(--muted); stroke-width: 1.5; }
.chart .dot[fill=none] { stroke: var(--muted); stroke-width: 1.5; }
.chart .ring { fill: none; stroke: var(--accent); stroke-width: 2.5; }
.chart .planned { fill: none; stroke: var(--accent); stroke-width: 2; }
.chart .span { stroke: var(--muted); stroke-width: 1.5; }
.chart .preset { fill: var(--warn); stroke: var(--panel); stroke-width: 1; }
.chart .mark { fill: var(--ink); stroke: var(--panel); stroke-width: 1.5; }
.chart .best-mark { fill: var(--accent); stroke: var(--ink); }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr));
  gap: 0 24px; }
.pictures section { min-width: 0; }
h3 { font-size: 1rem; margin: 10px 0 4px; overflow-wrap: anywhere; }
table.plan { font-size: .74rem; border-collapse: separate; border-spacing: 1px; }
table.plan td { padding: 2px 4px; text-align: center; border: 0; border-radius: 3px; }
table.plan th { padding: 2px 4px; text-align: center; border: 0; }
.chip { display: inline-block; padding: 1px 8px; margin: 2px 6px 2px 0; border-radius: 4px;
  font-size: .8rem; }
.scroll { overflow-x: auto; margin-bottom: 18px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: .93rem; }
.caption { color: var(--muted); margin: 0 0 4px; }
th, td { padding: 6px 8px; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; }
th.text, td.text { text-align: left; }
td.wrap { white-space: normal; }
.answers td { overflow-wrap: anywhere; min-width: 4.2em; }
tbody th { position: sticky; left: 0; background: var(--paper); }
.measured table { font-size: .88rem; }
.measured td, .measured tbody th { vertical-align: middle; }
.measured thead th { white-space: normal; }
@media (max-width: 560px) { .measured th, .measured td { padding: 6px 5px; }
  .measured .grade, .measured .figure { display: block; width: fit-content;
    margin: 1px 0 1px auto; }
  .measured .muted { font-size: .8rem; } .measured .around { display: block; }
  .measured tbody th { max-width: 92px; white-space: normal; overflow-wrap: break-word; }
  body { padding: 20px 14px 48px; } }
thead th { border-bottom: 2px solid var(--line); }
tr.best, tr.best th { background: color-mix(in srgb, var(--accent) 12%, var(--paper)); }
tr.best th { color: var(--accent); }
tr.floor, tr.baseline { color: var(--muted); }
.ok { color: var(--accent); } .bad { color: var(--bad); font-weight: 600; } .unknown {
  color: var(--warn); }
details { border: 1px solid var(--line); border-radius: 8px; padding: 8px 14px; margin: 8px 0; }
summary { cursor: pointer; font-weight: 600; }
summary:focus-visible, pre:focus-visible, .scroll:focus-visible {
  outline: 3px solid var(--accent); outline-offset: 2px; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 14px;
  white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, Menlo, Consolas,
  monospace; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 560px) { dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; } }
.flip { border-top: 1px solid var(--line); padding: 6px 0 10px; }
.flip dd { white-space: pre-wrap; }
footer { margin-top: 40px; color: var(--muted); font-size: .9rem; }
@media print { :root { --ink: #000; --muted: #444; --paper: #fff; --panel: #fff; --line: #bbb;
  --accent: #064;
  --warn: #630; --bad: #900; } body { max-width: none; padding: 0; font-size: 10pt; }
  details:not([open]) { display: none; } h2, .pick, .chart, tr { break-inside: avoid; }
  th, td { padding: 3px 5px; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
