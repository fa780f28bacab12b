import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { chromium } from 'playwright-core'
import t from 'tap'
import { Bench, isRoot } from './fixture.js'

const CHROMIUM = '/usr/bin/chromium'
const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

/** A file whose name would be markup if anything forgot to escape it. */
const HOSTILE = `<img src=x onerror=document.title='owned'>`

function makeImage(bench: Bench): void {
  const base = bench.tree('base', {
    'usr/lib/big': 'b'.repeat(300_000),
    'usr/lib/gone': 'g'.repeat(100_000),
    'etc/conf': 'c'.repeat(5_000),
    keep: 'k',
  })
  mkdirSync(`${base}/${HOSTILE.replaceAll('/', '')}`)
  writeFileSync(`${base}/${HOSTILE}/inside`, 'x'.repeat(50_000))
  bench.run('image', 'import', base, 'base')
  const context = bench.tree('context', {
    Containerfile: 'FROM base\nCOPY conf /etc/conf\nCOPY new /opt/new\n',
    conf: 'd'.repeat(6_000),
    new: 'n'.repeat(80_000),
  })
  bench.run('build', '-t', 'app', context)
  // A deletion, by an upperdir with a whiteout.
  const upper = bench.tree('upper', { 'usr/lib/added': 'a'.repeat(10) })
  writeFileSync(`${upper}/usr/lib/.wh.gone`, '')
  bench.run('commit', '--base', 'app', upper, 'app')
}

void t.test(
  'explore counts what layers add, change, delete and waste',
  { skip: !isRoot && 'needs root' },
  t => {
    const bench = new Bench(t)
    makeImage(bench)
    const found = JSON.parse(bench.run('image', 'explore', '--format', 'json', 'app')) as {
      layers: {
        size: number
        wasted: number
        added: { bytes: number }
        changed: { bytes: number }
        deleted: { entries: number; bytes: number }
      }[]
      stored: number
      visible: number
      wasted: number
      wastedFiles: { path: string; bytes: number; how: string; layer: number; hiddenBy: number }[]
      tree: { bytes: number }
    }
    t.same(
      found.layers.map(layer => [layer.size, layer.wasted, layer.deleted.bytes]),
      [
        [455_001, 105_000, 0],
        [6_000, 0, 0],
        [80_000, 0, 0],
        [10, 0, 100_000],
      ],
    )
    t.equal(found.layers[1]?.changed.bytes, 6_000)
    t.equal(found.stored, 541_011)
    t.equal(found.wasted, 105_000)
    t.equal(found.visible, found.tree.bytes)
    t.same(
      found.wastedFiles.map(({ path, bytes, how, layer, hiddenBy }) => ({
        path,
        bytes,
        how,
        layer,
        hiddenBy,
      })),
      [
        { path: '/usr/lib/gone', bytes: 100_000, how: 'deleted', layer: 0, hiddenBy: 3 },
        { path: '/etc/conf', bytes: 5_000, how: 'replaced', layer: 0, hiddenBy: 1 },
      ],
    )
    const text = bench.run('image', 'explore', 'app')
    t.match(text, /541 kB stored, 436 kB visible, 105 kB wasted/)
    t.match(text, /#1 +#4 +deleted +\/usr\/lib\/gone/)
    t.end()
  },
)

const skip = !isRoot ? 'needs root' : existsSync(CHROMIUM) ? false : 'chromium is not installed'
void t.test(
  'the page shows all of it in a browser, asks for nothing, and runs nothing that a name says',
  { skip },
  async t => {
    const bench = new Bench(t)
    makeImage(bench)
    const file = bench.path('page.html')
    bench.run('image', 'explore', '--html', file, 'app')
    t.notMatch(readFileSync(file, 'utf8'), '<img')
    const browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS })
    t.teardown(() => browser.close())
    const page = await browser.newPage({ viewport: { width: 1200, height: 900 } })
    const requests: string[] = []
    const faults: string[] = []
    page.on('request', request => requests.push(request.url()))
    page.on('pageerror', error => faults.push(error.message))
    await page.goto(`file://${file}`)
    await page.waitForSelector('html[data-ready=yes]')
    t.same(requests, [`file://${file}`])
    t.same(faults, [])
    t.equal(await page.title(), 'app:latest - lamina image explore')
    t.equal(await page.locator('#layers tbody tr').count(), 4)
    t.equal(await page.locator('#wasted tbody tr').count(), 2)
    t.match(await page.locator('#facts').innerText(), /105 kB\s+wasted/)
    t.ok((await page.getByText(HOSTILE).count()) > 0, 'the name is text')
    t.equal(await page.locator('img').count(), 0)

    // The area of the largest file is its part of what is visible.
    const map = await page.locator('#map').boundingBox()
    const cell = await page.locator('.cell', { hasText: /^big/ }).boundingBox()
    const part = ((cell?.width ?? 0) * (cell?.height ?? 0)) / ((map?.width ?? 1) * (map?.height ?? 1))
    t.ok(part > 0.5 && part < 0.72, `big takes ${part.toFixed(2)} of the map, 300 of 436 kB less the frames`)

    await page
      .locator('.cell.dir', { hasText: /^usr/ })
      .first()
      .click({ position: { x: 4, y: 4 } })
    t.match(await page.locator('#crumbs').innerText(), /usr/)
    t.equal(await page.locator('.cell', { hasText: /^new/ }).count(), 0, 'only usr is shown')
    await page.locator('#crumbs button').first().click()
    t.ok((await page.locator('.cell', { hasText: /^new/ }).count()) > 0)
  },
)
