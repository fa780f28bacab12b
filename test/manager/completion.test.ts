import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { candidates } from '../../src/cli/commands/completion.js'
import { Bench, lacking, PROJECT } from './fixture.js'

const bench = new Bench(t)
process.env['LAMINA_ROOT'] = bench.root

t.test('looking for names makes no store', async t => {
  t.strictSame(await candidates(['volume', 'rm', '']), [])
  t.notOk(existsSync(bench.root))
})

t.test('names of the store stand where they belong', async t => {
  bench.run('volume', 'create', 'data')
  bench.run('volume', 'create', 'logs')
  bench.run('volume', 'snapshot', 'create', 'data', 'monday')
  bench.run('container', 'create', '--name', 'web', '-v', 'logs:/logs')
  t.strictSame(await candidates(['volume', 'rm', '']), ['data', 'logs'])
  t.strictSame(await candidates(['volume', 'rm', '--force', 'data', '']), ['logs'], 'each once')
  t.strictSame(await candidates(['volume', 'snapshot', 'rm', 'data', '']), ['monday'])
  t.strictSame(await candidates(['volume', 'rename', 'data', '']), [], 'a new name is not there yet')
  t.strictSame(await candidates(['container', 'cp', 'w']), ['web:'])
  t.strictSame(await candidates(['exec', '-it', '']), ['web'])
  t.strictSame(await candidates(['volume', 'backup', '-o', '']), [], 'the value of an option')
  t.strictSame(await candidates(['volume', 'backup', '-o', 'x', 'd']), ['data'])
  t.strictSame(await candidates(['volume', 'rm', '--root', bench.path('none'), '']), [], 'of the store named')
  t.strictSame(await candidates(['help', 'volume', 'sn']), ['snapshot'])
})

t.test('the shells show them', async t => {
  mkdirSync(bench.path('bin'))
  symlinkSync(join(PROJECT, 'bin/lamina.js'), bench.path('bin/lamina'))
  const env = { ...process.env, PATH: `${bench.path('bin')}:${process.env['PATH'] ?? ''}`, HOME: bench.dir }
  const ask = (shell: string, script: string): string => {
    const { stdout, stderr } = spawnSync(shell, ['-c', script], { encoding: 'utf8', env, cwd: bench.dir })
    t.equal(stderr, '', shell)
    return stdout
  }
  const words = 'COMP_WORDS=(lamina volume rm d); COMP_CWORD=3; _lamina; echo "${COMPREPLY[@]}"'
  t.equal(ask('bash', `source <(lamina completion bash); ${words}`), 'data\n')
  t.test('fish', { skip: lacking('fish') ?? false }, async t => {
    t.equal(ask('fish', "lamina completion fish | source; complete -C 'lamina volume rm d'"), 'data\n')
  })
  t.test('zsh', { skip: lacking('zsh') ?? false }, async t => {
    // Completion runs in zsh's line editor only: what the function hands to it is caught.
    const script =
      'autoload -U compinit; compinit -D; source <(lamina completion zsh); ' +
      'compadd() { print -r -- "${candidates[@]}" }; _files() { }; words=(lamina volume rm d); CURRENT=4; _lamina'
    t.equal(ask('zsh', script), 'data\n')
  })
})
