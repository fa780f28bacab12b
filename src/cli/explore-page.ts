/**
 * One self-contained page about an image: no external resource, no request. Data come as JSON in a script element that
 * is never executed; everything that is shown goes through textContent, so that a file's name cannot become markup.
 */
import { toUtf8 } from '../base/bytes.js'
import type { Exploration, SizeNode } from '../manager/explore.js'

interface PageNode {
  /** Name, bytes, layer (files), children. */
  n: string
  b: number
  l?: number
  c?: PageNode[]
}

export function explorePage(found: Exploration, tree: SizeNode): string {
  const data = {
    image: found.image,
    id: found.id,
    stored: found.stored,
    visible: found.visible,
    wasted: found.wasted,
    efficiency: found.efficiency,
    layers: found.layers,
    wastedFiles: found.wastedFiles.slice(0, 500).map(file => ({ ...file, path: toUtf8(file.path) })),
    wastedCount: found.wastedFiles.length,
    tree: pageNode(tree),
  }
  // `<` cannot end the script element, whatever a name says; U+2028 and U+2029 are fine in JSON that is parsed.
  const json = JSON.stringify(data).replaceAll('<', '\\u003c')
  return PAGE.replace('@TITLE@', () => escapeHtml(found.image)).replace('@DATA@', () => json)
}

function pageNode(node: SizeNode): PageNode {
  return {
    n: toUtf8(node.name),
    b: node.bytes,
    ...(node.layer === undefined ? {} : { l: node.layer }),
    ...(node.children === undefined ? {} : { c: node.children.map(pageNode) }),
  }
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`)
}

const PAGE = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>@TITLE@ - lamina image explore</title>
<style>
:root { color-scheme: light dark; --bg: #fbfbfa; --fg: #1d2021; --dim: #6b7075; --line: #dcdcd8; --card: #fff; --bad: #b3261e; --good: #1f7a4d; }
@media (prefers-color-scheme: dark) { :root { --bg: #17191b; --fg: #e6e6e3; --dim: #9a9fa5; --line: #34383c; --card: #1f2225; --bad: #ff8a80; --good: #6fd3a0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px; max-width: 1400px; background: var(--bg); color: var(--fg); font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 22px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 28px 0 10px; }
.id { color: var(--dim); font: 12px ui-monospace, monospace; overflow-wrap: anywhere; }
.facts { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0; }
.fact { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; min-width: 130px; }
.fact b { display: block; font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums; }
.fact span { color: var(--dim); font-size: 12px; }
.bar { display: flex; height: 26px; border-radius: 6px; overflow: hidden; border: 1px solid var(--line); }
.bar div { min-width: 2px; cursor: pointer; }
.crumbs { display: flex; flex-wrap: wrap; gap: 2px; align-items: center; margin-bottom: 8px; min-height: 28px; }
.crumbs button { background: none; border: 0; color: inherit; font: inherit; padding: 3px 6px; border-radius: 4px; cursor: pointer; }
.crumbs button:hover, .crumbs button:focus-visible { background: var(--line); }
.crumbs .size { color: var(--dim); margin-left: 8px; }
#map { position: relative; height: 560px; border: 1px solid var(--line); border-radius: 8px; overflow: hidden; background: var(--card); }
.cell { position: absolute; overflow: hidden; border: 1px solid rgba(255,255,255,.55); font-size: 11px; line-height: 1.25; color: #10131a; padding: 2px 4px; }
@media (prefers-color-scheme: dark) { .cell { border-color: rgba(0,0,0,.45); } }
.cell.dir { cursor: zoom-in; background: rgba(128,128,128,.14); color: var(--fg); }
.cell.dir > .label { font-weight: 600; }
.cell:hover { outline: 2px solid var(--fg); outline-offset: -2px; }
.label { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; pointer-events: none; }
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
th, td { text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--dim); font-weight: 500; font-size: 12px; }
td.num, th.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
tr.on td { background: rgba(120,150,255,.13); }
td.by { font: 12px ui-monospace, monospace; overflow-wrap: anywhere; max-width: 460px; }
td.path { font: 12px ui-monospace, monospace; overflow-wrap: anywhere; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; vertical-align: -1px; margin-right: 6px; }
.bad { color: var(--bad); } .good { color: var(--good); }
#tip { position: fixed; z-index: 9; pointer-events: none; background: var(--fg); color: var(--bg); padding: 6px 9px; border-radius: 6px; font-size: 12px; max-width: 460px; overflow-wrap: anywhere; display: none; }
.note { color: var(--dim); font-size: 12px; margin-top: 6px; }
.wide { overflow-x: auto; }
</style>
</head>
<body>
<header><h1 id="title"></h1><div class="id" id="id"></div></header>
<section class="facts" id="facts" aria-label="Summary"></section>
<section><h2>Layers by size</h2><div class="bar" id="bar"></div></section>
<section><h2>What the image shows</h2>
<nav class="crumbs" id="crumbs" aria-label="Path"></nav>
<div id="map" role="img" aria-label="Treemap of the image by size; colours are layers"></div>
<div class="note">Area is bytes, colour is the layer that stores the file. Click a directory to look into it.</div></section>
<section><h2>Layers</h2><div class="wide"><table id="layers"></table></div></section>
<section id="waste"><h2>Wasted: stored in one layer, hidden by a later one</h2><div class="wide"><table id="wasted"></table></div><div class="note" id="more"></div></section>
<div id="tip"></div>
<script type="application/json" id="data">@DATA@</script>
<script>
'use strict'
const data = JSON.parse(document.getElementById('data').textContent)
const $ = id => document.getElementById(id)
const make = (tag, text, name) => {
  const e = document.createElement(tag)
  if (text !== undefined) e.textContent = text
  if (name) e.className = name
  return e
}
const size = n => {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let u = 0
  while (n >= 1000 && u < units.length - 1) { n /= 1000; u++ }
  return (u === 0 ? n : n.toPrecision(3)) + ' ' + units[u]
}
// Golden-angle steps keep neighbouring layers apart, also with many of them.
const colour = i => 'hsl(' + Math.round((212 + i * 137.508) % 360) + ' 62% ' + (72 - (i % 3) * 7) + '%)'
const percent = x => (100 * x).toFixed(1) + ' %'

$('title').textContent = data.image
$('id').textContent = data.id
for (const [value, label, name] of [
  [size(data.stored), 'stored in ' + data.layers.length + (data.layers.length === 1 ? ' layer' : ' layers')],
  [size(data.visible), 'visible'],
  [size(data.wasted), 'wasted', data.wasted > 0 ? 'bad' : 'good'],
  [percent(data.efficiency), 'efficient', data.efficiency < 0.9 ? 'bad' : 'good'],
]) {
  const box = make('div', undefined, 'fact')
  box.append(make('b', value, name), make('span', label))
  $('facts').append(box)
}

const tip = $('tip')
const hint = (element, text) => {
  element.addEventListener('pointermove', event => {
    event.stopPropagation()
    tip.textContent = text()
    tip.style.display = 'block'
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + 'px'
    tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + 'px'
  })
  element.addEventListener('pointerleave', () => { tip.style.display = 'none' })
}

for (const layer of data.layers) {
  const part = make('div')
  part.style.flex = String(Math.max(layer.size, 1))
  part.style.background = colour(layer.index)
  hint(part, () => '#' + (layer.index + 1) + '  ' + size(layer.size) + '  ' + layer.createdBy)
  part.addEventListener('click', () => mark(layer.index))
  $('bar').append(part)
}

// Squarified treemap (Bruls, Huizing, van Wijk 2000).
function squarify(nodes, x, y, w, h) {
  const placed = []
  const total = nodes.reduce((sum, node) => sum + node.b, 0)
  if (total === 0 || w <= 0 || h <= 0) return placed
  const scale = (w * h) / total
  let row = [], rowArea = 0, i = 0
  const worst = (list, area, side) => {
    const s2 = side * side, a2 = area * area
    let max = 0
    for (const { b } of list) {
      const r = b * scale
      max = Math.max(max, (s2 * r) / a2, a2 / (s2 * r))
    }
    return max
  }
  const flush = () => {
    const side = Math.min(w, h), thick = rowArea / side
    let at = 0
    for (const node of row) {
      const length = (node.b * scale) / thick
      placed.push(w >= h ? { node, x, y: y + at, w: thick, h: length } : { node, x: x + at, y, w: length, h: thick })
      at += length
    }
    if (w >= h) { x += thick; w -= thick } else { y += thick; h -= thick }
    row = []; rowArea = 0
  }
  while (i < nodes.length) {
    const node = nodes[i]
    if (node.b === 0) { i++; continue }
    const side = Math.min(w, h), area = rowArea + node.b * scale
    if (row.length === 0 || worst([...row, node], area, side) <= worst(row, rowArea, side)) {
      row.push(node); rowArea = area; i++
    } else flush()
  }
  if (row.length > 0) flush()
  return placed
}

let path = [data.tree]
const map = $('map')
function draw() {
  map.textContent = ''
  tip.style.display = 'none'
  const here = path[path.length - 1]
  const names = path.map(node => node.n).join('/')
  fill(here, 0, 0, map.clientWidth, map.clientHeight, names === '' ? '' : names, 0, [])
  const crumbs = $('crumbs')
  crumbs.textContent = ''
  path.forEach((node, index) => {
    const button = make('button', index === 0 ? '/' : node.n)
    button.addEventListener('click', () => { path = path.slice(0, index + 1); draw() })
    crumbs.append(button)
    if (index > 0 && index < path.length - 1) crumbs.append('/')
  })
  crumbs.append(make('span', size(here.b) + ' · ' + percent(data.visible ? here.b / data.visible : 0), 'size'))
}
function fill(dir, x, y, w, h, prefix, depth, trail) {
  for (const cell of squarify(dir.c || [], x, y, w, h)) {
    if (cell.w < 1.5 || cell.h < 1.5) continue
    const { node } = cell
    const full = prefix + '/' + node.n
    const e = make('div', undefined, node.c ? 'cell dir' : 'cell')
    e.style.left = cell.x + 'px'; e.style.top = cell.y + 'px'
    e.style.width = cell.w + 'px'; e.style.height = cell.h + 'px'
    if (!node.c) e.style.background = node.l === undefined ? 'var(--line)' : colour(node.l)
    const roomy = cell.w > 34 && cell.h > 15
    if (roomy) e.append(make('div', node.n + (cell.w > 110 ? '  ' + size(node.b) : ''), 'label'))
    hint(e, () => full + '  ' + size(node.b) + (node.l === undefined ? '' : '  (layer #' + (node.l + 1) + ')'))
    const steps = [...trail, node]
    if (node.c) e.addEventListener('click', event => { event.stopPropagation(); path = [...path, ...steps]; draw() })
    map.append(e)
    const top = roomy ? 18 : 2
    if (node.c && depth < 6 && cell.w > 12 && cell.h > top + 8) {
      fill(node, cell.x + 2, cell.y + top, cell.w - 4, cell.h - top - 2, full, depth + 1, steps)
    }
  }
}

const head = (table, ...titles) => {
  const row = table.createTHead().insertRow()
  for (const title of titles) row.append(make('th', title.replace(/^>/, ''), title.startsWith('>') ? 'num' : ''))
  return table.createTBody()
}
const rows = []
{
  const body = head($('layers'), '#', '>Size', '>Added', '>Changed', '>Deleted', '>Wasted', 'Created by')
  for (const layer of data.layers) {
    const row = body.insertRow()
    const first = row.insertCell()
    const swatch = make('span', undefined, 'swatch')
    swatch.style.background = colour(layer.index)
    first.append(swatch, String(layer.index + 1))
    const count = c => c.entries + ' · ' + size(c.bytes)
    for (const text of [size(layer.size), count(layer.added), count(layer.changed), count(layer.deleted)]) row.append(make('td', text, 'num'))
    row.append(make('td', size(layer.wasted), layer.wasted > 0 ? 'num bad' : 'num'), make('td', layer.createdBy, 'by'))
    rows.push(row)
  }
}
function mark(index) {
  rows.forEach((row, i) => row.classList.toggle('on', i === index))
  rows[index].scrollIntoView({ block: 'center' })
}
if (data.wastedFiles.length === 0) $('waste').remove()
else {
  const body = head($('wasted'), '>Bytes', 'Stored in', 'Hidden by', 'How', 'Path')
  for (const file of data.wastedFiles) {
    const row = body.insertRow()
    row.append(make('td', size(file.bytes), 'num'))
    for (const index of [file.layer, file.hiddenBy]) {
      const cell = row.insertCell()
      const swatch = make('span', undefined, 'swatch')
      swatch.style.background = colour(index)
      cell.append(swatch, '#' + (index + 1))
    }
    row.append(make('td', file.how), make('td', '/' + file.path, 'path'))
  }
  const hidden = data.wastedCount - data.wastedFiles.length
  if (hidden > 0) $('more').textContent = 'and ' + hidden + ' smaller ones'
}
addEventListener('resize', draw)
draw()
document.documentElement.dataset.ready = 'yes'
</script>
</body>
</html>
`
