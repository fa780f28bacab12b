/**
 * Runs the tests: `node .ci/test.js [--all] [--times] [KIND…] [PATTERN…]`. Without a kind, all of them.
 *
 * unit, mount, conformance, dropin, manager and security are tap files (dist/test/KIND/…/*.test.js); integration are
 * shell scripts (test/integration/*.sh: exit 0 passed, 77 skipped with the reason on the last line, anything else
 * failed). A PATTERN keeps only the files whose path contains it.
 *
 * All files stand in one queue, the longest first: .ci/seconds.json says how long each takes, and `--times` writes it
 * anew from this run. What is in CHAOS runs only with `--all`, or when a kind or a pattern asks for it.
 *
 * One line per file, the whole of what failed, and at the end `N passed, N failed, N skipped`, counting named tests.
 * The full TAP of each kind is kept in dist/KIND.tap.
 */
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { prepare, root } from './prepare.js'

const KINDS = ['unit', 'mount', 'conformance', 'dropin', 'manager', 'security', 'integration']

/** Files that kill, hang, race or fill disks for minutes, and those that need a container engine of the host. */
const CHAOS = [
  'dropin/docker',
  'dropin/podman',
  'integration/session',
  'integration/sqlite-kill',
  'manager/container-kill',
  'manager/crash',
  'manager/mount-races',
  'manager/power-cut',
  'mount/fault-kill',
  'mount/hung-disk',
  'mount/keeper-kill',
  'mount/races',
  'mount/silent-layer',
]

/** Two of these kinds at once would meet in what the host has only once: its container engines and their stores. */
const ALONE = ['dropin']

/**
 * Seconds without a sign of life after which a file is ended; a slow machine is slow, not red. A single test may take
 * as long, the whole file four times that.
 */
const SILENCE = 300

/** One more than processors: most files wait for disks and processes now and then. */
const LANES = Number(process.env.LAMINA_TEST_LANES ?? availableParallelism() + 1)

/**
 * What a test is started with: a mount namespace of its own, where that is allowed. Else a container engine that starts
 * beside it takes a copy of its mounts, and a daemon whose mount lives on in a copy does not end.
 */
const OWN_NAMESPACE = ['unshare', '--mount', '--propagation', 'private', '--']
const APART =
  spawnSync(OWN_NAMESPACE[0], [...OWN_NAMESPACE.slice(1), 'true']).status === 0 ? OWN_NAMESPACE : []

/** Files of a kind, from the sources: what was deleted there is not run from an old dist. */
function filesOf(kind) {
  const ending = kind === 'integration' ? '.sh' : '.test.ts'
  return readdirSync(join(root, 'test', kind), { recursive: true })
    .filter(name => name.endsWith(ending) && name !== 'lib.sh') // lib.sh: what the scripts share
    .map(name => ({ kind, path: join('test', kind, name), name: `${kind}/${name.slice(0, -ending.length)}` }))
}

/** Starts `argv` and gives all that it printed, with its exit code or the signal that ended it. */
async function outputOf(argv, env) {
  const [command, ...args] = [...APART, ...argv]
  // A process group of its own, so that what a hanging script has started ends with it.
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], detached: true, env })
  const output = []
  const end = signal => {
    try {
      process.kill(-child.pid, signal)
    } catch {
      // It has ended meanwhile.
    }
  }
  const silent = () => {
    output.push(Buffer.from(`\nended: it has printed nothing for ${SILENCE} s\n`))
    end('SIGTERM') // what a test has mounted is undone by its own handlers
    timer = setTimeout(end, 10_000, 'SIGKILL')
  }
  let timer = setTimeout(silent, SILENCE * 1000)
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', data => {
      output.push(data)
      clearTimeout(timer)
      timer = setTimeout(silent, SILENCE * 1000)
    })
  }
  const result = await new Promise(resolve => child.on('close', (code, signal) => resolve(code ?? signal)))
  clearTimeout(timer)
  return { text: Buffer.concat(output).toString(), result }
}

/**
 * Runs a tap file as a program that prints TAP. tap's command would run it too, but it loads a tracer into every process
 * that a test starts, the daemons included, which takes a second each time. One that dies or has no test in it counts as
 * one failure.
 */
async function runTap({ path }) {
  const program = join(root, 'dist', path.replace(/\.ts$/, '.js'))
  const env = { ...process.env, TAP: '1', TAP_TIMEOUT: String(4 * SILENCE) }
  const { text, result } = await outputOf([process.execPath, '--enable-source-maps', program], env)
  const counted = { passed: 0, failed: 0, skipped: 0 }
  const lines = []
  let block = [] // what belongs to the next test point
  let showing = false // the diagnostics below a `not ok`
  for (const line of text.split('\n')) {
    const point = /^(not )?ok \d+(?: - (.*))?$/.exec(line)
    if (point === null) {
      if (showing && /^ {2}/.test(line)) lines.push(line)
      else block.push(line)
      continue
    }
    const [, not, name = ''] = point
    showing = not !== undefined && !/# TODO\b/i.test(name)
    if (showing) {
      counted.failed++
      lines.push(...block.slice(-500), line)
    } else if (/# (SKIP|TODO)\b/i.test(name)) {
      counted.skipped++
      lines.push(`       skipped: ${name.replace(/ # (SKIP|TODO) */i, ': ')}`)
    } else {
      counted.passed++
    }
    block = []
  }
  if (counted.failed === 0 && (result !== 0 || counted.passed + counted.skipped === 0)) {
    counted.failed++
    lines.push(...text.trimEnd().split('\n').slice(-100), `ended with ${result}`)
  }
  return { counted, lines, text }
}

async function runScript({ path }) {
  const { text, result } = await outputOf(['bash', path], process.env)
  const counted = { passed: Number(result === 0), failed: Number(result !== 0 && result !== 77), skipped: 0 }
  counted.skipped = 1 - counted.passed - counted.failed
  const lines =
    counted.skipped > 0
      ? [`       skipped: ${text.trimEnd().split('\n').at(-1)}`]
      : counted.failed > 0
        ? [...text.trimEnd().split('\n'), `ended with ${result}`]
        : []
  return { counted, lines, text }
}

/** Takes files from the queue until it is empty; one of ALONE only while no other lane has one. */
async function lane(queue, state) {
  while (queue.length > 0) {
    const at = queue.findIndex(file => !(state.alone && ALONE.includes(file.kind)))
    if (at < 0) return // the lane that has one takes the rest of them
    const [file] = queue.splice(at, 1)
    const alone = ALONE.includes(file.kind)
    if (alone) state.alone = true
    const started = Date.now()
    const { counted, lines, text } = await (file.kind === 'integration' ? runScript : runTap)(file)
    if (alone) state.alone = false
    const took = (Date.now() - started) / 1000
    state.seconds[file.name] = Math.max(1, Math.round(took))
    for (const key of Object.keys(state.total)) state.total[key] += counted[key]
    state.log[file.kind].push(`# ${file.path}`, text)
    const verdict = counted.failed > 0 ? 'FAILED' : counted.passed > 0 ? 'ok    ' : 'skip  '
    const tests = counted.passed + counted.failed
    lines.push(`${verdict} test/${file.name} (${tests} tests, ${took.toFixed(1)} s)`)
    console.log(lines.join('\n'))
  }
}

prepare()
const args = process.argv.slice(2)
const kinds = KINDS.filter(kind => args.includes(kind))
const patterns = args
  .filter(arg => !KINDS.includes(arg) && !arg.startsWith('--'))
  .map(arg => arg.replace(/^dist\//, '').replace(/\.test\.js$/, ''))
const everyday = !args.includes('--all') && kinds.length === 0 && patterns.length === 0
const times = join(root, '.ci/seconds.json')
const known = JSON.parse(readFileSync(times, 'utf8'))
const queue = (kinds.length > 0 ? kinds : KINDS)
  .flatMap(filesOf)
  .filter(({ path }) => patterns.length === 0 || patterns.some(pattern => path.includes(pattern)))
  .filter(({ name }) => !(everyday && CHAOS.some(each => name.startsWith(each))))
  .sort((a, b) => (known[b.name] ?? 60) - (known[a.name] ?? 60))
const state = {
  alone: false,
  total: { passed: 0, failed: 0, skipped: 0 },
  seconds: {},
  log: Object.fromEntries(KINDS.map(kind => [kind, []])),
}
const ran = new Set(queue.map(({ kind }) => kind))
await Promise.all(Array.from({ length: LANES }, () => lane(queue, state)))
mkdirSync(join(root, 'dist'), { recursive: true })
for (const kind of ran) writeFileSync(join(root, `dist/${kind}.tap`), `${state.log[kind].join('\n')}\n`)
if (args.includes('--times')) {
  const sorted = Object.fromEntries(Object.entries({ ...known, ...state.seconds }).sort())
  writeFileSync(times, `${JSON.stringify(sorted, undefined, 2)}\n`)
}
const { passed, failed, skipped } = state.total
console.log('')
console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`)
process.exit(failed > 0 || passed === 0 ? 1 : 0)
