/**
 * Runs the tests: `node .ci/test.js [KIND…] [PATTERN…]`. Without a kind, all of them in turn.
 *
 * unit, mount, conformance, dropin, manager and security are tap files (dist/test/KIND/…/*.test.js); integration are shell scripts
 * (test/integration/*.sh: exit 0 passed, 77 skipped with the reason on the last line, anything else failed). A PATTERN
 * keeps only the files whose path contains it.
 *
 * One line per file, the whole of what failed, and at the end `N passed, N failed, N skipped`, counting named tests.
 * The full TAP of each kind is kept in dist/KIND.tap.
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { prepare, root } from './prepare.js'

/** Seconds that one file may take, and how many run at a time (the machines that run this have two cores). */
const KINDS = {
  unit: { seconds: 60, jobs: 2 },
  mount: { seconds: 180, jobs: 2 },
  conformance: { seconds: 300, jobs: 2 },
  dropin: { seconds: 400, jobs: 1 },
  manager: { seconds: 300, jobs: 2 },
  security: { seconds: 300, jobs: 2 },
  integration: { seconds: 600, jobs: 2 },
}

/**
 * What a test is started with: a mount namespace of its own, where that is allowed. Else a container engine that starts
 * beside it takes a copy of its mounts, and a daemon whose mount lives on in a copy does not end.
 */
const OWN_NAMESPACE = ['unshare', '--mount', '--propagation', 'private', '--']
const APART =
  spawnSync(OWN_NAMESPACE[0], [...OWN_NAMESPACE.slice(1), 'true']).status === 0 ? OWN_NAMESPACE : []

const total = { passed: 0, failed: 0, skipped: 0 }

/** Files of a kind, from the sources: what was deleted there is not run from an old dist. */
function filesOf(kind, patterns) {
  const directory = join(root, 'test', kind)
  if (!existsSync(directory)) return []
  const ending = kind === 'integration' ? '.sh' : '.test.ts'
  return readdirSync(directory, { recursive: true })
    .map(name => join('test', kind, name))
    .filter(path => path.endsWith(ending) && !path.endsWith('/lib.sh')) // lib.sh: what the scripts share
    .filter(path => patterns.length === 0 || patterns.some(pattern => path.includes(pattern)))
    .sort()
}

/**
 * Runs tap test files, each as a program of its own that prints TAP. tap's command would run them too, but it loads a
 * tracer into every process that a test starts, the daemons included, which takes a second each time.
 */
async function runFiles(kind, files) {
  const log = []
  await inLanes(kind, files, async file => log.push(`# ${file}`, await runFile(kind, file)))
  writeFileSync(join(root, `dist/${kind}.tap`), `${log.join('\n')}\n`)
}

/** Runs files of a kind, as many at a time as that has jobs. */
async function inLanes(kind, files, run) {
  const waiting = [...files]
  const lane = async () => {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) await run(file)
  }
  await Promise.all(Array.from({ length: KINDS[kind].jobs }, lane))
}

/** Gives what the file printed. One that dies, hangs or has no test in it counts as one failure. */
async function runFile(kind, file) {
  const { seconds } = KINDS[kind]
  const started = Date.now()
  const output = []
  const program = join(root, 'dist', file.replace(/\.ts$/, '.js'))
  const [command, ...argv] = [...APART, process.execPath, '--enable-source-maps', program]
  const child = spawn(command, argv, {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TAP: '1', TAP_TIMEOUT: String(seconds) },
  })
  child.stdout.on('data', data => output.push(data))
  child.stderr.on('data', data => output.push(data))
  // tap itself ends what takes too long and says which test that was; this is for a process that hangs.
  const timer = setTimeout(() => child.kill('SIGKILL'), (seconds + 10) * 1000)
  const result = await new Promise(resolve => child.on('close', (code, signal) => resolve(code ?? signal)))
  clearTimeout(timer)
  const text = Buffer.concat(output).toString()
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
  for (const key of Object.keys(total)) total[key] += counted[key]
  const tests = counted.passed + counted.failed
  const took = `${((Date.now() - started) / 1000).toFixed(1)} s`
  const verdict = counted.failed > 0 ? 'FAILED' : 'ok    '
  lines.push(`${verdict} ${file.replace(/\.test\.ts$/, '')} (${tests} tests, ${took})`)
  console.log(lines.join('\n'))
  return text
}

async function runScript(file) {
  const started = Date.now()
  const output = []
  const [command, ...argv] = [...APART, 'bash', file]
  const child = spawn(command, argv, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], detached: true })
  const closed = new Promise(resolve => child.on('close', (code, signal) => resolve(code ?? signal)))
  child.stdout.on('data', data => output.push(data))
  child.stderr.on('data', data => output.push(data))
  const timer = setTimeout(() => {
    output.push(Buffer.from(`\nended after ${KINDS.integration.seconds} s\n`))
    process.kill(-child.pid, 'SIGTERM') // its own process group, so that its trap can clean up
  }, KINDS.integration.seconds * 1000)
  const result = await closed
  clearTimeout(timer)
  const text = Buffer.concat(output).toString()
  const took = `${((Date.now() - started) / 1000).toFixed(1)} s`
  const name = relative('test', file).replace(/\.sh$/, '')
  if (result === 0) {
    total.passed++
    console.log(`ok     test/${name} (${took})`)
  } else if (result === 77) {
    total.skipped++
    console.log(`skip   test/${name}: ${text.trimEnd().split('\n').at(-1)}`)
  } else {
    total.failed++
    console.log(`${text.trimEnd()}\nFAILED test/${name} (exit ${result}, ${took})`)
  }
}

prepare()
mkdirSync(join(root, 'dist'), { recursive: true })
const args = process.argv.slice(2)
const kinds = Object.keys(KINDS).filter(kind => args.includes(kind))
const patterns = args
  .filter(arg => !(arg in KINDS))
  .map(arg => arg.replace(/^dist\//, '').replace(/\.test\.js$/, ''))
for (const kind of kinds.length > 0 ? kinds : Object.keys(KINDS)) {
  const files = filesOf(kind, patterns)
  if (files.length === 0) continue
  console.log(`--- ${kind}`)
  // The last by name takes longest (tar): it is not to be waited for alone at the end.
  if (kind === 'integration') await inLanes(kind, files.reverse(), runScript)
  else await runFiles(kind, files)
}
console.log('')
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)
process.exit(total.failed > 0 || total.passed === 0 ? 1 : 0)
