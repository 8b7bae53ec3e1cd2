"""How the report looks: one column, light, fit for a screen and for paper."""

CSS = """\
:root { --ink: #23272e; --faint: #6d747e; --line: #e2e5e9; --wash: #f6f7f9; --up: #1f7a4d; --down: #b3263a; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 40px 24px 72px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.01em; margin: 0 0 20px; }
h2 { font-size: 19px; margin: 44px 0 12px; padding-top: 16px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; margin: 20px 0 0; }
p { margin: 0 0 12px; }
.banner { border-radius: 8px; padding: 16px 20px; border-left: 6px solid; margin-bottom: 8px; }
.banner strong { font-size: 19px; }
.banner p { margin: 4px 0 0; }
.banner.healthy { background: #e9f6ef; border-color: #2a9461; }
.banner.healthy strong { color: #17633e; }
.banner.collapsed { background: #fcebed; border-color: #c62f45; }
.banner.collapsed strong { color: #961f32; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 7px 8px; border-bottom: 1px solid var(--line); font-weight: normal;
  vertical-align: top; }
th:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--faint); font-size: 14px; vertical-align: bottom; }
.scores, .compared { width: auto; min-width: 60%; }
.scores { font-size: 18px; line-height: 1.35; }
.scores th:first-child { font-size: 16px; min-width: 180px; }
.scores .teacher th:first-child, .scores .teacher td { font-weight: 650; }
.scores small { display: block; font-size: 13px; font-weight: normal; color: var(--faint); }
.scores small.up { color: var(--up); }
.scores small.down { color: var(--down); }
.scores .reference { color: var(--faint); }
.scores .reference th:first-child, .scores .reference td { font-size: 15px; }
.scores td.hole { color: var(--faint); font-size: 15px; }
.grid { font-size: 14px; }
.grid td, .grid th { padding: 4px 8px; }
.grid th:first-child { padding-left: 0; min-width: 110px; overflow-wrap: anywhere; }
.compared, .compared thead th { font-size: 13px; }
.compared th:first-child { min-width: 170px; overflow-wrap: break-word; }
.compared td { white-space: nowrap; }
.compared tr.reference { color: var(--faint); }
.compared tr.reference th:first-child { padding-left: 16px; }
.compared tr:has(+ .reference) > * { border-bottom: none; }
.note, .missing { color: var(--faint); font-size: 14.5px; margin-top: 12px; }
.missing { background: var(--wash); padding: 12px 16px; border-radius: 6px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 24px; margin: 0; font-size: 14.5px; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 20px 0 0; }
figure img { display: block; width: 100%; height: auto; }
figcaption { color: var(--faint); font-size: 14px; margin-top: 8px; }
.confusions { display: grid; grid-template-columns: 1fr 1fr; gap: 8px 32px; }
.confusions .wide { grid-column: 1 / -1; }
.confusions figcaption { display: none; }
.confusions figure { margin-top: 8px; }
.mistakes { columns: 18em; padding-left: 1.6em; }
@media (max-width: 640px) {
  main { padding: 24px 16px; }
  dl, .confusions { grid-template-columns: 1fr; }
  dl { gap: 0; }
  dd { margin-bottom: 8px; }
  section { overflow-x: auto; }
}
@page { size: A4; margin: 15mm; }
@media print {
  body { font-size: 10.5pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  h2 { margin-top: 24px; }
  .scores { font-size: 12pt; }
  .grid { font-size: 9pt; }
  .compared, .compared thead th { font-size: 8pt; }
  .scores th:first-child { min-width: 0; }
  .compared th:first-child { min-width: 34mm; overflow-wrap: break-word; }
  h2, h3, thead { break-after: avoid; }
  .keep, figure, tr, .banner, dt, dd { break-inside: avoid; }
  figure img { width: auto; max-width: 100%; max-height: 225mm; margin: 0 auto; }
}
"""
