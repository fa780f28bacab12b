import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { Claims } from '../../src/manager/claims.js'
import { PROJECT } from './fixture.js'

/** Many processes at once, and what killed ones left: src/manager/claims.ts, and the first opening of src/manager/database.ts. */

function place(t: { teardown(end: () => unknown): void }): string {
  const dir = mkdtempSync(join(tmpdir(), 'lamina-claims-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  return dir
}

const compiled = (name: string): string =>
  JSON.stringify(pathToFileURL(join(PROJECT, `dist/src/manager/${name}.js`)).href)

/** Runs `program` in processes of its own, one for each of `words`; returns what they said on standard error. */
async function runAll(program: string, words: readonly string[], dir: string): Promise<string[]> {
  const ended = words.map(async word => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', program, word, dir], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let said = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text))
    await once(child, 'close')
    return said
  })
  return await Promise.all(ended)
}

const CLAIMING = `
const [, what, dir] = process.argv
const { Claims } = await import(${compiled('claims')})
const claims = new Claims(dir)
for (const end = Date.now() + 1500; Date.now() < end; ) {
  if (what === 'make') claims.claim('lease', Math.random().toString(16).slice(2)).release()
  else for (const claim of claims.orphaned()) throw new Error('the claim of a live process: ' + claim.id)
}`

void t.test('a new claim is never taken for a dead process’s, however many sweep meanwhile', async t => {
  const dir = place(t)
  const said = await runAll(CLAIMING, ['make', 'make', 'sweep', 'sweep'], dir)
  t.same(said, ['', '', '', ''])
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

const OPENING = `
import { existsSync } from 'node:fs'
const [, , dir] = process.argv
const { Database } = await import(${compiled('database')})
for (let round = 0; round < 60; round += 1) {
  const home = dir + '/' + round
  while (!existsSync(home)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1)
  const db = Database.open(home + '/lamina.db', home + '/lock')
  db.run('DELETE FROM mounts')
  db.close()
}`

/** What SQLite leaves when it is killed just before a new database file gets its first page. Source: sqlite.org/fileformat.html, 3. */
function firstJournal(): Buffer {
  const journal = Buffer.alloc(512)
  journal.write('d9d505f920a163d7', 'hex')
  journal.writeUInt32BE(0x5ad7e48e, 12)
  journal.writeUInt32BE(512, 20)
  journal.writeUInt32BE(4096, 24)
  return journal
}

void t.test(
  'a store is opened by many at once: a new one, and one whose making was cut off by kill -9',
  async t => {
    const dir = place(t)
    const opened = runAll(OPENING, ['a', 'b', 'c', 'd'], dir)
    await wait(300)
    for (let round = 0; round < 60; round += 1) {
      const home = join(dir, `making-${round}`)
      mkdirSync(home)
      const left = [
        {},
        { 'lamina.db': '', 'lamina.db-journal': firstJournal() },
        { 'lamina.db.new': 'half', 'lamina.db.new-journal': firstJournal() },
      ][round % 3]
      for (const [name, bytes] of Object.entries(left ?? {})) writeFileSync(join(home, name), bytes)
      renameSync(home, join(dir, String(round)))
      await wait(20)
    }
    t.same(await opened, ['', '', '', ''])
    t.notOk(readdirSync(join(dir, '2')).includes('lamina.db.new'))
  },
)
