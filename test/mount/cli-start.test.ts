import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { PROJECT, Scratch, unavailable } from './fixture.js'

const skip = unavailable('lamina') ?? false

/** `npm start -- ARGS` without a terminal, its temporary files below `scratch`. */
function start(
  scratch: Scratch,
  ...args: string[]
): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [path.join(PROJECT, '.ci/start.js'), ...args], {
    encoding: 'utf8',
    timeout: 60_000,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: scratch.mkdir('tmp') },
  })
}

t.test('the tour changes the view and not the directory, and leaves nothing', { skip }, async t => {
  using scratch = new Scratch('start')
  const directory = scratch.mkdir('dir')
  for (const name of ['README.md', "it's", 'z']) fs.writeFileSync(path.join(directory, name), `${name}\n`)
  const done = start(scratch, directory)
  t.equal(done.stderr, '')
  t.equal(done.status, 0)
  t.match(done.stdout, /\nC \/README\.md\nD \/it's\nA \/new\nA \/new\/file\nC \/renamed-z\nD \/z\n/)
  t.strictSame(fs.readdirSync(directory).sort(), ['README.md', "it's", 'z'])
  t.equal(fs.readFileSync(path.join(directory, 'README.md'), 'utf8'), 'README.md\n')
  t.strictSame(fs.readdirSync(scratch.path('tmp')), [])
})

t.test('an empty directory will do, a missing one is named', { skip }, async t => {
  using scratch = new Scratch('start-empty')
  const done = start(scratch, scratch.mkdir('dir'))
  t.equal(done.status, 0)
  t.match(done.stdout, /\nA \/hello\.txt\n/)
  const missing = start(scratch, scratch.path('none'))
  t.equal(missing.status, 1)
  t.match(missing.stderr, /^npm start: '.*none' is not a directory\n$/)
})
