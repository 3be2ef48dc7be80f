# ruff: noqa: E501 (a style sheet, a rule a line)
"""The style sheet of the report page: phone first, dark where the reader's system is, white on paper."""

from __future__ import annotations

STYLE = """
:root{
  --ground:#ffffff;--card:#ffffff;--ink:#15191e;--quiet:#59636e;--line:#dfe3e8;--grid:#c9ced4;--wash:#f5f7f9;--accent:#0b62a8;
  --series-0:#0072b2;--series-1:#d55e00;--series-2:#009e73;--series-3:#b8598f;--series-4:#3d9bd6;--series-5:#d08c00;
  --series-6:#7a7a7a;--series-7:#15191e;
  --good:#0b7a57;--bad:#b3480a;--mid:#59636e;--up:0,114,178;--down:213,94,0;
  --sans:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
  --mono:ui-monospace,"SF Mono",SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;
  color-scheme:light dark}
@media screen and (prefers-color-scheme:dark){:root{
  --ground:#101316;--card:#171b20;--ink:#e8ebee;--quiet:#9aa5b1;--line:#2b323a;--grid:#3a424c;--wash:#1b2026;--accent:#6cb6ee;
  --series-0:#4aa6e4;--series-1:#f08a4b;--series-2:#3cc59d;--series-3:#e39cc6;--series-4:#8fcdf5;--series-5:#f0b840;
  --series-6:#a3abb4;--series-7:#e8ebee;
  --good:#4fcaa0;--bad:#f2995f;--mid:#9aa5b1;--up:74,166,228;--down:240,138,75}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%;scroll-padding-top:1rem}
body{margin:0;background:var(--ground);color:var(--ink);font:400 1rem/1.55 var(--sans)}
main,header,footer{max-width:70rem;margin:0 auto;padding:0 1.1rem}
header{padding-top:2.2rem}
h1{font-size:clamp(1.65rem,1.2rem + 2vw,2.4rem);line-height:1.15;letter-spacing:-.02em;margin:0 0 .4rem;text-wrap:balance}
h2{font-size:1.35rem;line-height:1.25;letter-spacing:-.01em;margin:0 0 .5rem;text-wrap:balance}
h3{font-size:1rem;line-height:1.3;margin:1.6rem 0 .5rem}
p,li{max-width:44rem}
p{margin:.35rem 0 .8rem}
a{color:var(--accent);text-underline-offset:.15em}
code,.mono{font-family:var(--mono);font-size:.88em}
.lead{color:var(--quiet);margin:0}
nav{margin:1.1rem 0 0;padding:.7rem 0;border-block:1px solid var(--line);font-size:.9rem;line-height:1.9}
nav a{margin-right:1.1rem;white-space:nowrap;text-decoration:none}
nav a:hover{text-decoration:underline}
section{margin:2.6rem 0 0;padding-top:.2rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.7rem;margin:1.3rem 0 0;padding:0}
.tile{background:var(--wash);border-radius:10px;padding:.75rem .9rem}
.tile b{display:block;font-size:1.5rem;line-height:1.2;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tile span{color:var(--quiet);font-size:.84rem;line-height:1.35;display:block}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem;margin:.9rem 0 0}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.75rem .8rem .5rem;min-width:0;break-inside:avoid}
.figures>figure{max-width:36rem}
figcaption{font-size:.88rem;font-weight:600;line-height:1.35;margin:0 0 .4rem}
figcaption small{display:block;font-weight:400;font-size:.8rem;color:var(--quiet)}
svg{display:block;max-width:100%;height:auto}
svg.plot{width:100%}
svg text{font-family:var(--sans)!important}
.scroll{overflow-x:auto;margin:.8rem 0;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{padding:.42rem .7rem;text-align:right;border-bottom:1px solid var(--line);vertical-align:baseline;white-space:nowrap}
thead th{font-weight:600;color:var(--quiet);font-size:.78rem;line-height:1.25;vertical-align:bottom;white-space:normal;min-width:4.2rem}
th:first-child,td:first-child{text-align:left}
td.says{text-align:left;white-space:normal;min-width:20rem}
tbody th{font-weight:600;background:var(--ground);position:sticky;left:0}
thead th:first-child{background:var(--ground);position:sticky;left:0}
td small,tbody th small{display:block;color:var(--quiet);font-size:.74rem;line-height:1.2}
td.none{color:var(--quiet);font-style:italic;text-align:left}
tr.best td.key{font-weight:700}
.findings{list-style:none;padding:0;margin:1rem 0}
.findings li{border-top:1px solid var(--line);padding:.85rem 0;display:grid;grid-template-columns:8.2rem 1fr;gap:.2rem 1rem;max-width:58rem}
.findings h3{margin:0;font-size:1rem}
.findings p{margin:.2rem 0 0}
.findings .paper{color:var(--quiet);font-size:.87rem}
.outcome{font-size:.8rem;font-weight:700;line-height:1.4;padding-top:.1rem}
.outcome::before{content:"";display:inline-block;width:.62em;height:.62em;border-radius:50%;margin-right:.45em;border:2px solid currentColor}
.outcome.yes{color:var(--good)}.outcome.yes::before{background:currentColor}
.outcome.no{color:var(--bad)}.outcome.no::before{border-radius:0;transform:rotate(45deg) scale(.85)}
.outcome.open{color:var(--mid)}
.limits li{margin:.45rem 0}
.pending-note{color:var(--quiet);font-style:italic;border-left:3px solid var(--line);padding-left:.8rem}
.transcript{margin:1.1rem 0 1.6rem;break-inside:avoid}
.question{background:var(--wash);border-radius:10px 10px 0 0;padding:.6rem .9rem;border:1px solid var(--line);border-bottom:0;overflow-wrap:anywhere}
.question small{display:block;color:var(--quiet);font-size:.78rem}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,16rem),1fr));border:1px solid var(--line);border-radius:0 0 10px 10px;overflow:hidden;gap:1px;background:var(--line)}
.answer{background:var(--card);padding:.6rem .9rem .8rem;min-width:0}
.answer header{padding:0;margin:0 0 .4rem;display:flex;flex-wrap:wrap;gap:.15rem .7rem;align-items:baseline;font-size:.84rem}
.answer header b{font-size:.92rem}
.answer header span{color:var(--quiet)}
.text{font:.82rem/1.65 var(--mono);white-space:pre-wrap;overflow-wrap:anywhere;margin:0;max-height:24rem;overflow-y:auto}
.text i{font-style:normal;border-radius:2px;padding:.06em 0}
.scale{display:flex;flex-wrap:wrap;gap:.4rem 1.2rem;font-size:.82rem;color:var(--quiet);margin:.3rem 0 .6rem}
.scale i{display:inline-block;width:1.6em;height:.95em;border-radius:3px;vertical-align:-.1em;margin-right:.4em}
details{border:1px solid var(--line);border-radius:8px;margin:.45rem 0;padding:0 .9rem;background:var(--card)}
summary{cursor:pointer;padding:.5rem 0;font-weight:600}
summary small{font-weight:400;color:var(--quiet);margin-left:.5rem}
details table{margin:0 0 .8rem;font-size:.84rem}
details td{text-align:left;white-space:normal;overflow-wrap:anywhere;font-family:var(--mono);font-size:.8rem}
details th{background:none;position:static;font-weight:400;text-align:left;vertical-align:top}
.drawing{overflow-x:auto;padding:.6rem}
svg.recipe{margin:0 auto;font-size:13px}
svg.gantt{min-width:33rem;width:100%;max-width:52rem;font-size:11px}
.edge{fill:none;stroke:var(--quiet);stroke-width:1.3;opacity:.75}.tip{fill:var(--quiet)}
.node rect{fill:var(--wash);stroke:var(--tone,var(--quiet));stroke-width:1.6}
.node text,.chip text{text-anchor:middle;fill:var(--ink)}
.node-name{font-weight:650}.node-note{font-size:11px;fill:var(--quiet)!important}
.chip rect{fill:var(--card);stroke:var(--line)}.chip text{font-size:10.5px;fill:var(--quiet)}
.pending rect{stroke-dasharray:4 3}.pending text{opacity:.75}
.kind-pretrain,.kind-tokenizer,.kind-foundation,.kind-problems{--tone:var(--series-6)}.kind-sft{--tone:var(--series-5)}
.kind-rl{--tone:var(--series-0)}.kind-cold_start,.kind-reject,.kind-examples{--tone:var(--series-2)}.kind-reward_model,.kind-reward_head{--tone:var(--series-3)}
.kind-evaluate{--tone:var(--series-4)}.kind-other{--tone:var(--quiet)}
.gantt text{fill:var(--ink)}.gantt .bar-time{fill:var(--quiet)}.bar{fill:var(--tone)}.rail{stroke:var(--line);stroke-width:1}
.kinds{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.82rem;color:var(--quiet);margin:.4rem 0}
.kinds i{display:inline-block;width:.8em;height:.8em;border-radius:3px;background:var(--tone);margin-right:.4em}
footer{margin-top:3.5rem;padding-bottom:2.5rem;color:var(--quiet);font-size:.85rem}
footer p{border-top:1px solid var(--line);padding-top:1rem;max-width:none}
@media (max-width:36rem){
  .findings li{grid-template-columns:1fr}
  th,td{padding:.4rem .5rem}
  .tiles{grid-template-columns:1fr 1fr}
}
@media print{
  @page{margin:14mm}
  html{font-size:9.5pt}
  main,header,footer{max-width:none;padding:0}
  nav{display:none}
  section{margin-top:1.4rem}
  h2,h3,figcaption,summary,h2+p,.kinds,.scale{break-after:avoid}
  tr,.tile,.findings li,h2+p{break-inside:avoid}
  details::details-content{content-visibility:visible;height:auto}
  .figures{grid-template-columns:1fr 1fr}
  .scroll,.drawing{overflow:visible}
  table{font-size:7.5pt}
  th,td{padding:.25rem .35rem}
  .text{max-height:none;font-size:7.5pt}
  svg.recipe,svg.gantt{min-width:0!important;max-height:215mm}
  *{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""
