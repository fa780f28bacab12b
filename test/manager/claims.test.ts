import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { Claims } from '../../src/manager/claims.js'
import { PROJECT } from './fixture.js'

/** Claims of many processes at once: src/manager/claims.ts. */

function place(t: { teardown(end: () => unknown): void }): string {
  const dir = mkdtempSync(join(tmpdir(), 'lamina-claims-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  return dir
}

const PROGRAM = `
const [, what, dir] = process.argv
const { Claims } = await import(${JSON.stringify(pathToFileURL(join(PROJECT, 'dist/src/manager/claims.js')).href)})
const claims = new Claims(dir)
for (const end = Date.now() + 1500; Date.now() < end; ) {
  if (what === 'make') claims.claim('lease', Math.random().toString(16).slice(2)).release()
  else for (const claim of claims.orphaned()) throw new Error('the claim of a live process: ' + claim.id)
}`

void t.test('a new claim is never taken for a dead process’s, however many sweep meanwhile', async t => {
  const dir = place(t)
  const ended = ['make', 'make', 'sweep', 'sweep'].map(async what => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', PROGRAM, what, dir], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let said = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text))
    await once(child, 'close')
    return said
  })
  t.same(await Promise.all(ended), ['', '', '', ''])
  t.same(readdirSync(dir), [])
})

void t.test('what dead processes left is swept: claims, and files that were to become one', t => {
  const dir = place(t)
  for (const name of ['layer-0123', 'new-4567', 'README']) writeFileSync(join(dir, name), '')
  mkdirSync(join(dir, 'sub'))
  const claims = new Claims(dir)
  const held = claims.claim('lease', 'mine')
  const found = [...claims.orphaned()]
  t.same(
    found.map(({ kind, id }) => [kind, id]),
    [['layer', '0123']],
  )
  t.equal(claims.tryClaim('layer', '0123'), undefined, 'the sweep has it')
  for (const claim of found) claim.release()
  held.release()
  t.same(readdirSync(dir).sort(), ['README', 'sub'])
  t.end()
})
