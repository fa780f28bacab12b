import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const module = JSON.stringify(fileURLToPath(new URL('../../src/base/log.js', import.meta.url)))
const script = `
  import { debug } from ${module}
  for (const area of ['fuse', 'overlay', 'sys', 'daemon', 'store']) debug(area)?.('line of ' + area)
`
const stderrWith = (value: string | undefined) =>
  spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    env: value === undefined ? {} : { LAMINA_DEBUG: value },
    encoding: 'utf8',
  }).stderr.replace(/\[\d+\]/g, '[PID]')

t.test('LAMINA_DEBUG chooses the areas that are logged', async t => {
  t.equal(stderrWith(undefined), '')
  t.equal(stderrWith('fuse, store'), 'fuse[PID] line of fuse\nstore[PID] line of store\n')
  t.equal(stderrWith('all').split('\n').length, 6)
})
