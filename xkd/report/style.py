"""How the report looks: one column, light, fit for a screen and for paper."""

CSS = """\
:root { --ink: #23272e; --faint: #6d747e; --line: #e2e5e9; --wash: #f6f7f9; --up: #1f7a4d; --down: #b3263a; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 920px; margin: 0 auto; padding: 40px 24px 72px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.01em; margin: 0 0 20px; }
h2 { font-size: 19px; margin: 44px 0 12px; padding-top: 16px; border-top: 1px solid var(--line); }
p { margin: 0 0 12px; }
.banner { border-radius: 8px; padding: 16px 20px; border-left: 6px solid; margin-bottom: 8px; }
.banner strong { font-size: 19px; }
.banner p { margin: 4px 0 0; }
.banner.healthy { background: #e9f6ef; border-color: #2a9461; }
.banner.healthy strong { color: #17633e; }
.banner.collapsed { background: #fcebed; border-color: #c62f45; }
.banner.collapsed strong { color: #961f32; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 7px 8px; border-bottom: 1px solid var(--line); font-weight: normal; }
th:first-child { text-align: left; }
thead th { color: var(--faint); font-size: 14px; vertical-align: bottom; }
.scores { font-size: 18px; table-layout: fixed; }
.scores th:first-child { width: 32%; font-size: 16px; }
.scores .teacher th:first-child, .scores .teacher td { font-weight: 650; }
.scores small { display: inline-block; width: 3.8em; font-size: 13px; font-weight: normal; }
.scores small.up { color: var(--up); }
.scores small.down { color: var(--down); }
.scores thead th { padding-right: 60px; }
.scores .chance { color: var(--faint); }
.scores td.hole { color: var(--faint); font-style: italic; font-size: 15px; padding-right: 60px; }
.grid { font-size: 14px; }
.grid td, .grid th { padding: 4px 8px; }
th:first-child { padding-left: 0 !important; }
.note, .missing { color: var(--faint); font-size: 14.5px; margin-top: 12px; }
.missing { background: var(--wash); padding: 12px 16px; border-radius: 6px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 24px; margin: 0; font-size: 14.5px; }
dt { color: var(--faint); }
dd { margin: 0; }
figure { margin: 20px 0 0; }
figure img { display: block; width: 100%; height: auto; }
figcaption { color: var(--faint); font-size: 14px; margin-top: 8px; }
@media (max-width: 640px) {
  main { padding: 24px 16px; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 8px; }
}
@media print {
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; }
  figure, table, .banner, dl { break-inside: avoid; }
  .banner, td.hole, .missing { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
