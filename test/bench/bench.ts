import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { chart } from './chart.js'
import { NewDisk } from './disk.js'
import { goalsTable, ratiosTable, timesTable } from './report.js'
import { Disturbed, Sample, type Input, type Workload } from './sample.js'
import { Results } from './statistics.js'
import { SUBJECTS, type Subject } from './subjects.js'
import { PROJECT, installed, run } from './tool.js'
import { CHANGES } from './workloads/changes.js'
import { DAEMON } from './workloads/daemon.js'
import { DATA } from './workloads/data.js'
import { TREES } from './workloads/trees.js'

/** `npm run bench`: every workload on every subject in turn, several times over. How to read it: docs/benchmark.md. */

const WORKLOADS: readonly Workload[] = [...TREES, ...CHANGES, ...DATA, ...DAEMON]
const USAGE = `npm run bench [-- OPTION…]: compares overlay filesystems with each other. Needs root.

  --quick            a twentieth of everything, twice: under three minutes
  --workload NAME    only this one; may be repeated, or several with commas
  --subject NAME     only this one; may be repeated, or several with commas
  --repeat N         samples of each (default 5; 2 with --quick)
  --scale X          size of everything (default 1; 0.05 with --quick)
  --dir DIR          where layers are made (default: TMPDIR, else /tmp; and a new ext4 in it for what makes many files)
  --out DIR          where results.json and chart.svg go (default: dist/bench)
  --list             names of workloads and subjects
`

function several(values: readonly string[] | undefined): string[] | undefined {
  return values?.flatMap(value => value.split(',')).map(value => value.trim())
}

/** @throws Error that names what is not there */
function choose<T extends { name: string; onlyIfNamed?: boolean }>(
  all: readonly T[],
  names: readonly string[] | undefined,
  what: string,
): T[] {
  if (names === undefined) return all.filter(one => one.onlyIfNamed !== true)
  for (const name of names)
    if (!all.some(one => one.name === name))
      throw new Error(`no ${what} '${name}'; there are: ${all.map(one => one.name).join(', ')}`)
  return all.filter(one => names.includes(one.name))
}

/** What results mean nothing without. */
function machine(): Record<string, unknown> {
  const commit = (() => {
    try {
      return execFileSync('git', ['-C', PROJECT, 'rev-parse', '--short', 'HEAD'], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }).trim()
    } catch {
      return undefined // not a clone
    }
  })()
  return {
    kernel: os.release(),
    architecture: os.arch(),
    cpu: os.cpus()[0]?.model ?? 'unknown',
    cpus: os.cpus().length,
    memoryMiB: Math.round(os.totalmem() / (1 << 20)),
    node: process.version,
    ...(commit === undefined ? {} : { commit }),
    tools: Object.fromEntries(
      ['git', 'tar', 'fio', 'sqlite3', 'npm', 'cc', 'pgbench']
        .filter(installed)
        .map(tool => [tool, run(tool, ['--version']).split('\n')[0] ?? '']),
    ),
  }
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      workload: { type: 'string', multiple: true },
      subject: { type: 'string', multiple: true },
      repeat: { type: 'string' },
      scale: { type: 'string' },
      dir: { type: 'string' },
      out: { type: 'string' },
      list: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(USAGE)
    return 0
  }
  if (values.list) {
    for (const workload of WORKLOADS) console.log(`${workload.name.padEnd(20)} ${workload.what}`)
    for (const subject of SUBJECTS)
      console.log(`${subject.name.padEnd(20)} ${subject.missing() ?? subject.version()}`)
    return 0
  }
  if (process.geteuid?.() !== 0) {
    process.stderr.write('npm run bench: needs root, to mount and to drop caches\n')
    return 1
  }
  // In a mount namespace of its own: another process that makes one meanwhile would keep mounts, and daemons, alive.
  if (process.env['LAMINA_BENCH_NAMESPACE'] === undefined && installed('unshare')) {
    const done = spawnSync(
      'unshare',
      ['--mount', '--propagation', 'private', process.execPath, ...process.argv.slice(1)],
      { stdio: 'inherit', env: { ...process.env, LAMINA_BENCH_NAMESPACE: '1' } },
    )
    return done.status ?? 1
  }
  const scale = Number(values.scale ?? (values.quick ? 0.05 : 1))
  const repeat = Number(values.repeat ?? (values.quick ? 2 : 5))
  if (!(scale > 0) || !(repeat >= 1)) throw new Error('--scale and --repeat want a number')
  const workloads = choose(WORKLOADS, several(values.workload), 'workload')
  const chosen = choose(SUBJECTS, several(values.subject), 'subject')
  const missing = new Map<string, string>()
  const subjects = chosen.filter(subject => {
    const why = subject.missing()
    if (why !== undefined) missing.set(subject.name, why)
    return why === undefined
  })
  for (const [name, why] of missing) console.log(`missing: ${name}: ${why}`)

  const root = fs.mkdtempSync(path.join(values.dir ?? os.tmpdir(), 'lamina-bench-'))
  fs.chmodSync(root, 0o755)
  const out = path.resolve(values.out ?? path.join(PROJECT, 'dist/bench'))
  const date = new Date().toISOString()
  const results = new Results()
  try {
    for (const workload of workloads) {
      const why = workload.missing?.()
      if (why !== undefined) {
        missing.set(workload.name, why)
        console.log(`missing: ${workload.name}: ${why}`)
        continue
      }
      await measure(workload, subjects, root, values.dir === undefined, scale, repeat, results)
      save()
    }
  } finally {
    run('rm', ['-rf', '--one-file-system', root])
  }

  const names = subjects.map(subject => subject.name)
  console.log(`\n${timesTable(results, names)}`)
  console.log(`\n${ratiosTable(results, names)}`)
  const goals = goalsTable(results)
  if (goals !== '') console.log(`\n${goals}`)
  for (const [what, why] of results.failures) console.log(`failed: ${what}: ${why}`)
  console.log(`\n${path.join(out, 'results.json')}\n${path.join(out, 'chart.svg')}`)
  return results.failures.size > 0 ? 1 : 0

  /** After every workload: a run that is stopped has told what it knew. */
  function save(): void {
    fs.mkdirSync(out, { recursive: true })
    const measures = [...results.samples].map(([measure, of]) => ({
      measure,
      unit: results.units.get(measure),
      samples: Object.fromEntries(of),
      median: Object.fromEntries([...of.keys()].map(name => [name, results.summary(measure, name)?.median])),
      requests: Object.fromEntries(results.requests.get(measure) ?? []),
    }))
    const report = {
      date,
      scale,
      repeat,
      machine: machine(),
      versions: Object.fromEntries(subjects.map(subject => [subject.name, subject.version()])),
      missing: Object.fromEntries(missing),
      failures: Object.fromEntries(results.failures),
      measures,
    }
    fs.writeFileSync(path.join(out, 'results.json'), `${JSON.stringify(report, null, 1)}\n`)
    const title = `Lamina, ${date.slice(0, 10)}, Linux ${os.release()}, scale ${scale}`
    fs.writeFileSync(
      path.join(out, 'chart.svg'),
      chart(
        results,
        subjects.map(subject => subject.name),
        title,
      ),
    )
  }
}

/** Samples in turn, each round in another order: whatever the machine does meanwhile meets all of them. */
async function measure(
  workload: Workload,
  all: readonly Subject[],
  root: string,
  mayHaveNewDisk: boolean,
  scale: number,
  repeat: number,
  results: Results,
): Promise<void> {
  const subjects = all.filter(subject => workload.subjects?.(subject) ?? true)
  const started = Date.now()
  const base = path.join(root, workload.name)
  const input: Input = {
    lower: path.join(base, 'lower'),
    extra: path.join(base, 'extra'),
    scaled: n => Math.max(1, Math.round(n * scale)),
  }
  fs.mkdirSync(input.lower, { recursive: true })
  fs.mkdirSync(input.extra)
  workload.prepare?.(input)
  run('sync', ['-f', base])
  for (let round = 0; round < repeat; round++) {
    for (let i = 0; i < subjects.length; i++) {
      const subject = subjects[(i + round) % subjects.length]
      if (subject === undefined) continue
      const failed = `${workload.name} on ${subject.name}`
      if (results.failures.has(failed)) continue
      for (let attempt = 1; ; attempt++) {
        const last = round === repeat - 1
        const place = path.join(base, 'sample')
        let disk: NewDisk | undefined
        let sample: Sample | undefined
        let disturbed = false
        try {
          if (mayHaveNewDisk && workload.makesFiles === true)
            disk = new NewDisk(path.join(base, 'disk.img'), place)
          sample = new Sample(workload, subject, input, place, results, last)
          sample.mount()
          await workload.run(sample)
          sample.commit()
        } catch (error) {
          disturbed = error instanceof Disturbed && attempt < 5
          if (!disturbed) results.failures.set(failed, error instanceof Error ? error.message : String(error))
        }
        try {
          try {
            await sample?.end()
          } finally {
            disk?.end()
          }
        } catch (error) {
          results.failures.set(failed, error instanceof Error ? error.message : String(error))
        }
        if (!disturbed) break
      }
    }
  }
  run('rm', ['-rf', '--one-file-system', base])
  console.error(`${workload.name}: ${((Date.now() - started) / 1000).toFixed(0)} s`)
}

process.exitCode = await main().catch((error: unknown) => {
  process.stderr.write(`npm run bench: ${error instanceof Error ? error.message : String(error)}\n`)
  return 1
})
