/**
 * `npm start [-- DIR]`: a copy-on-write view over DIR (this project's folder by default), to try things in. With a terminal
 * it opens a shell in the view; without one it runs a short tour. What changed is shown at the end; then everything is
 * unmounted and removed, and DIR is as it was.
 */
import { spawnSync } from 'node:child_process'
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { prepare, root } from './prepare.js'

prepare()

const say = text => process.stdout.write(`${text}\n`)
const lamina = join(root, 'bin/lamina.js')

/** Runs `lamina`; its standard output. Ends this program when it fails: lamina has said why. */
function run(...args) {
  const done = spawnSync(process.execPath, [lamina, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  if (done.status !== 0) throw new Error(`lamina ${args[0]} failed`)
  return done.stdout
}

/** Where upper, work and mountpoint go: not below DIR, or DIR would contain its own changes. */
function scratchBeside(directory) {
  const device = statSync(directory).dev
  const prefix = directory === '/' ? '/' : `${directory}/`
  const candidates = [tmpdir(), '/var/tmp', '/dev/shm', process.env.XDG_RUNTIME_DIR ?? '/dev/shm']
  for (const candidate of candidates) {
    if (!existsSync(candidate)) continue
    const real = realpathSync(candidate)
    const inside = `${real}/`.startsWith(prefix) && statSync(real).dev === device
    try {
      accessSync(real, constants.W_OK)
      if (!inside) return mkdtempSync(join(real, 'lamina-start-'))
    } catch {
      // not writable: the next one
    }
  }
  throw new Error(`no temporary directory outside of ${directory}; set TMPDIR to one`)
}

const asked = resolve(process.env.INIT_CWD ?? process.cwd(), process.argv[2] ?? root)
if (statSync(asked, { throwIfNoEntry: false })?.isDirectory() !== true) {
  process.stderr.write(`npm start: '${asked}' is not a directory\n`)
  process.exit(1)
}
const directory = realpathSync(asked)
let scratch
let mounted = false

function leave() {
  if (mounted) {
    mounted = false
    const done = spawnSync(process.execPath, [lamina, 'umount', mountpoint], { encoding: 'utf8' })
    if (done.status !== 0) {
      process.stderr.write(done.stderr)
      spawnSync(process.execPath, [lamina, 'umount', '--force', mountpoint], { stdio: 'inherit' })
    }
  }
  if (scratch !== undefined) rmSync(scratch, { recursive: true, force: true })
  scratch = undefined
}
// Ctrl-C belongs to the shell inside; a signal to this program still cleans up.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    if (signal === 'SIGINT' && process.stdin.isTTY) return
    leave()
    process.exit(130)
  })
}

let mountpoint = ''
let status = 0
try {
  scratch = scratchBeside(directory)
  mountpoint = join(scratch, 'merged')
  const upper = join(scratch, 'upper')
  const work = join(scratch, 'work')
  for (const made of [mountpoint, upper, work]) mkdirSync(made)
  run('mount', '-o', 'lower=live', '--lower', directory, '--upper', upper, '--work', work, mountpoint)
  mounted = true
  say('')
  say(`  ${directory}`)
  say('      lowerdir: only read, never changed; what you change in it shows in the view')
  say(`  ${upper}`)
  say('      upperdir: every change lands here')
  say(`  ${mountpoint}`)
  say('      the merged view of both, served by a daemon of this project')
  say('')
  if (process.stdin.isTTY && process.stdout.isTTY) {
    shell(upper)
    const changes = run('diff', upper)
    const what = `What changed in the view (A added, C changed, D deleted); ${directory} is as it was:`
    say(changes === '' ? '\nNothing was changed.' : `\n${what}\n${changes.trimEnd()}`)
  } else {
    tour(upper)
  }
} catch (error) {
  process.stderr.write(`npm start: ${error.message}\n`)
  status = 1
} finally {
  leave()
  say('\nUnmounted; the daemon has ended and the changes are removed.')
}
process.exit(status)

function shell(upper) {
  say('A shell in the merged view. Change what you like; leave with `exit` or Ctrl-D.')
  say('Beside it, `lamina mounts`, `lamina stats .` and `lamina diff .` tell what goes on.\n')
  const path = `${join(scratch, 'bin')}:${process.env.PATH}`
  mkdirSync(join(scratch, 'bin'))
  spawnSync('ln', ['-s', lamina, join(scratch, 'bin/lamina')])
  spawnSync(process.env.SHELL ?? '/bin/sh', [], {
    cwd: mountpoint,
    stdio: 'inherit',
    env: { ...process.env, PATH: path, LAMINA_UPPER: upper, LAMINA_LOWER: directory },
  })
}

/** Shows each command as it is run in the merged view. */
function tour(upper) {
  const show = command => {
    say(`$ ${command}`)
    const done = spawnSync('sh', ['-c', command], { cwd: mountpoint, encoding: 'utf8' })
    process.stdout.write(done.stdout)
    if (done.status !== 0) throw new Error(`"${command}" failed: ${done.stderr.trim()}`)
    say('')
  }
  const quote = name => {
    const word = name.startsWith('-') ? `./${name}` : name
    return /^[\w./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
  }
  const writable = name => {
    try {
      accessSync(join(mountpoint, name), constants.W_OK)
      return true
    } catch {
      return false
    }
  }
  // Files at the top of DIR that anybody can follow with the eye; the names are the ones that are really there.
  const files = readdirSync(mountpoint, { withFileTypes: true })
    .filter(entry => entry.isFile() && !entry.name.startsWith('.') && writable(entry.name))
    .map(entry => entry.name)
  // The one that is shown should be text.
  const text = name => (/^(readme|license)|\.(md|txt|json)$/i.test(name) ? 0 : 1)
  const [changed = 'hello.txt', deleted, renamed] = files.sort(
    (a, b) => text(a) - text(b) || (a < b ? -1 : 1),
  )
  show('ls')
  if (!writable('.')) {
    say(
      `${directory} is not yours to change, and neither is a view over it: owner and mode count here as there.`,
    )
    return
  }
  if (files.length === 0) show('echo hello > hello.txt')
  show(`head -n 3 ${quote(changed)}`)
  show(`echo 'a line that only the upperdir has' >> ${quote(changed)}`)
  if (deleted !== undefined) show(`rm ${quote(deleted)}`)
  if (renamed !== undefined) show(`mv ${quote(renamed)} ${quote(`renamed-${renamed}`)}`)
  show('mkdir new && echo fresh > new/file')
  show(`tail -n 1 ${quote(changed)}`)
  say(`$ ls ${upper}`)
  say(spawnSync('ls', ['-l', upper], { encoding: 'utf8' }).stdout)
  say(`$ lamina diff ${mountpoint}`)
  say(run('diff', mountpoint).trimEnd())
  say(`\nA is added, C changed, D deleted; ${directory} is as it was.`)
  if (deleted !== undefined && !existsSync(join(directory, deleted)))
    throw new Error(`${deleted} is gone below`)
}
