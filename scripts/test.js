/**
 * Runs the tests: `node scripts/test.js [KIND…] [PATTERN…]`. Without a kind, all of them in turn.
 *
 * unit, mount, conformance and manager are tap files (dist/test/KIND/…/*.test.js); integration are shell scripts
 * (test/integration/*.sh: exit 0 passed, 77 skipped with the reason on the last line, anything else failed). A PATTERN
 * keeps only the files whose path contains it.
 *
 * One line per file, the whole of what failed, and at the end `N passed, N failed, N skipped`, counting named tests.
 * The full TAP of each kind is kept in dist/KIND.tap.
 */
import { spawn } from 'node:child_process'
import { createWriteStream, existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import { createInterface } from 'node:readline'
import { prepare, root } from './prepare.js'

/** Seconds that one file may take, and how many run at a time (the machines that run this have two cores). */
const KINDS = {
  unit: { seconds: 60, jobs: 2 },
  mount: { seconds: 180, jobs: 2 },
  conformance: { seconds: 300, jobs: 2 },
  manager: { seconds: 300, jobs: 2 },
  integration: { seconds: 600, jobs: 1 },
}

const total = { passed: 0, failed: 0, skipped: 0 }

/** Files of a kind, from the sources: what was deleted there is not run from an old dist. */
function filesOf(kind, patterns) {
  const directory = join(root, 'test', kind)
  if (!existsSync(directory)) return []
  const ending = kind === 'integration' ? '.sh' : '.test.ts'
  return readdirSync(directory, { recursive: true })
    .map(name => join('test', kind, name))
    .filter(path => path.endsWith(ending))
    .filter(path => patterns.length === 0 || patterns.some(pattern => path.includes(pattern)))
    .sort()
}

/**
 * Reads `tap --reporter=tap`. A file is a subtest of the run, its named tests are indented by four: those are counted.
 * A file that failed without a failed test in it (crash, timeout, no test) counts as one failure.
 */
async function runTap(kind, files) {
  const { seconds, jobs } = KINDS[kind]
  const log = createWriteStream(join(root, `dist/${kind}.tap`))
  const tap = spawn(
    process.execPath,
    [
      join(root, 'node_modules/tap/dist/esm/run.mjs'),
      '--disable-coverage',
      '--allow-empty-coverage',
      '--reporter=tap',
      `--timeout=${seconds}`,
      `--jobs=${jobs}`,
      ...files.map(file => join('dist', file.replace(/\.ts$/, '.js'))),
    ],
    { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] },
  )
  const closed = new Promise(resolve => tap.on('close', resolve))
  let seen = { passed: 0, failed: 0, skipped: 0 }
  let block = [] // lines of the test, or of the file, that is being reported
  let printing = false // of the diagnostics below a `not ok`
  let filesSeen = 0
  for await (const line of createInterface({ input: tap.stdout })) {
    log.write(`${line}\n`)
    const point = /^( {4})?(not )?ok \d+ - (.*)$/.exec(line) ?? /^( {4})?(not )?ok \d+()$/.exec(line)
    if (printing && !/^ {4}/.test(line) && !/^ {2}\S|^ {2}---/.test(line)) printing = false
    if (point === null) {
      if (printing) console.log(line)
      else block.push(line)
      if (block.length > 2000) block.shift()
      continue
    }
    const [, inFile, not, rest] = point
    const failed = not !== undefined && !/# TODO\b/i.test(rest)
    if (inFile !== undefined) {
      printing = failed
      if (failed) {
        seen.failed++
        console.log([...block, line].join('\n'))
      } else if (/# (SKIP|TODO)\b/i.test(rest)) {
        seen.skipped++
        console.log(`    skipped: ${rest.replace(/ # SKIP/i, ':')}`)
      } else {
        seen.passed++
      }
    } else {
      filesSeen++
      const name = rest
        .replace(/ # .*$/, '')
        .replace(/^dist\//, '')
        .replace(/\.test\.js$/, '')
      const time = /# time=([\d.]+)(ms|s)/.exec(rest)
      const took = time === null ? '' : `, ${(Number(time[1]) / (time[2] === 'ms' ? 1000 : 1)).toFixed(1)} s`
      printing = false
      if (failed && seen.failed === 0) {
        seen.failed++
        printing = true
        console.log(block.join('\n'))
      } else if (/# SKIP\b/i.test(rest)) {
        seen.skipped++
      }
      const skipped = seen.skipped === 0 ? '' : `, ${seen.skipped} skipped`
      console.log(
        `${failed ? 'FAILED' : 'ok    '} ${name} (${seen.passed + seen.failed} tests${skipped}${took})`,
      )
      for (const key of Object.keys(total)) total[key] += seen[key]
      seen = { passed: 0, failed: 0, skipped: 0 }
    }
    block = []
  }
  await closed
  log.end()
  if (filesSeen !== files.length) {
    console.log(`FAILED ${kind}: ${files.length - filesSeen} of ${files.length} files were not run`)
    total.failed++
  }
}

async function runScript(file) {
  const started = Date.now()
  const output = []
  const child = spawn('bash', [file], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], detached: true })
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
  if (kind === 'integration') for (const file of files) await runScript(file)
  else await runTap(kind, files)
}
console.log('')
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)
process.exit(total.failed > 0 || total.passed === 0 ? 1 : 0)
