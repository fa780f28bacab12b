import fs from 'node:fs'
import path from 'node:path'
import { makeFile } from '../inputs.js'
import type { Input, Workload } from '../sample.js'
import { installed, run, runQuietly } from '../tool.js'

/** Contents of big files: fio, databases, and the first change of a lower file. */

interface FioReport {
  jobs: { read: { bw_bytes: number }; write: { bw_bytes: number } }[]
}

/** Milliseconds for one GiB. @param size in MiB */
function fio(file: string, size: number, mode: string, ...more: string[]): number {
  const report = JSON.parse(
    run('fio', [
      '--name=bench',
      `--filename=${file}`,
      `--size=${size}m`,
      `--rw=${mode}`,
      '--output-format=json',
      '--randrepeat=1',
      '--invalidate=0',
      ...more,
    ]),
  ) as FioReport
  const job = report.jobs[0]
  const speed = mode.includes('read') ? job?.read.bw_bytes : job?.write.bw_bytes
  if (speed === undefined || speed === 0) throw new Error(`fio --rw=${mode} says nothing`)
  return ((1 << 30) / speed) * 1000
}

/** In MiB, a multiple of 16: fio takes no fractions in --io_size. */
const fioSize = (input: Input): number => Math.max(32, Math.ceil(input.scaled(512) / 16) * 16)

const fioUpper: Workload = {
  name: 'fio',
  what: 'fio on a new file of 512 MiB: sequential and random, read, write, fsync, mmap',
  changes: true,
  missing: () => (installed('fio') ? undefined : 'fio is not installed'),
  run: async sample => {
    const size = fioSize(sample.input)
    const file = path.join(sample.path, 'data')
    const measure = (name: string, ...args: [mode: string, ...more: string[]]): Promise<void> =>
      sample.take(name, 'ms/GiB', () => fio(file, size, ...args))
    await measure('write 1M', 'write', '--bs=1m')
    sample.settle()
    await measure('write 4k over it', 'write', '--bs=4k')
    sample.settle()
    await measure('write 4k random', 'randwrite', '--bs=4k', `--io_size=${size / 4}m`)
    sample.settle()
    await measure(
      'write 4k fsync',
      'write',
      '--bs=4k',
      '--fsync=1',
      `--io_size=${Math.max(1, Math.floor(size / 64))}m`,
    )
    await measure('write mmap', 'randwrite', '--bs=4k', '--ioengine=mmap', `--io_size=${size / 4}m`)
    await sample.cold()
    await measure('read 1M cold', 'read', '--bs=1m')
    await measure('read 1M warm', 'read', '--bs=1m', '--loops=4')
    await measure('read 4k warm', 'read', '--bs=4k')
    await measure('read 4k random warm', 'randread', '--bs=4k')
    await measure('read mmap warm', 'randread', '--bs=4k', '--ioengine=mmap')
  },
}

const fioLower: Workload = {
  name: 'fio-lower',
  what: 'fio reads a lower file of 512 MiB: cold and again, sequential and random',
  changes: false,
  missing: () => (installed('fio') ? undefined : 'fio is not installed'),
  prepare: input => makeFile(path.join(input.lower, 'data'), fioSize(input)),
  run: async sample => {
    const size = fioSize(sample.input)
    const file = path.join(sample.path, 'data')
    await sample.cold()
    await sample.take('read 1M cold', 'ms/GiB', () => fio(file, size, 'read', '--bs=1m'))
    await sample.take('read 1M warm', 'ms/GiB', () => fio(file, size, 'read', '--bs=1m', '--loops=4'))
    await sample.take('read 4k random warm', 'ms/GiB', () => fio(file, size, 'randread', '--bs=4k'))
  },
}

const copyUp: Workload = {
  name: 'copy-up',
  what: 'the first write to, and a chmod of, a lower file of 1 GiB',
  changes: true,
  prepare: input => {
    for (const name of ['write', 'chmod']) makeFile(path.join(input.lower, name), input.scaled(1024))
  },
  // A plain directory has nothing to copy.
  subjects: subject => subject.name !== 'plain',
  run: async sample => {
    await sample.fresh()
    sample.settle()
    await sample.time('first write', () => {
      const fd = fs.openSync(path.join(sample.path, 'write'), 'r+')
      fs.writeSync(fd, 'x', 5000)
      fs.closeSync(fd)
    })
    sample.settle()
    await sample.time('chmod', () => fs.chmodSync(path.join(sample.path, 'chmod'), 0o600))
  },
}

const sqlite: Workload = {
  name: 'sqlite',
  what: 'SQLite: 100,000 rows in one transaction; 200 transactions of one row, in rollback mode and in WAL',
  changes: true,
  missing: () => (installed('sqlite3') ? undefined : 'sqlite3 is not installed'),
  run: async sample => {
    const database = path.join(sample.path, 'bench.db')
    const sql = (input: string): void => void run('sqlite3', ['-batch', '-bail', database], { input })
    const rows = sample.input.scaled(100_000)
    sql('CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, payload BLOB); CREATE INDEX n ON item (name);')
    sample.settle()
    await sample.time('one transaction', () =>
      sql(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${rows})
        INSERT INTO item SELECT i, 'name ' || (i * 7919 % 20011), zeroblob(100) FROM n;`),
    )
    sample.settle()
    const small = "INSERT INTO item (name, payload) VALUES ('one', zeroblob(100));\n".repeat(
      sample.input.scaled(200),
    )
    await sample.time('transactions', () => sql(small))
    await sample.time('transactions in WAL', () => sql(`PRAGMA journal_mode = wal;\n${small}`))
    await sample.time('read all', () => sql('SELECT sum(length(payload)), count(DISTINCT name) FROM item;'))
  },
}

/** Debian keeps the server's programs out of PATH, one directory for each version. */
function postgresPrograms(): string | undefined {
  const base = '/usr/lib/postgresql'
  if (!fs.existsSync(base)) return undefined
  const newest = fs
    .readdirSync(base)
    .sort((a, b) => Number(a) - Number(b))
    .at(-1)
  const directory = newest === undefined ? undefined : path.join(base, newest, 'bin')
  return directory !== undefined && fs.existsSync(path.join(directory, 'initdb')) ? directory : undefined
}

/** As the user postgres: the server does not run as root. */
const asPostgres = (...command: string[]): [string, string[]] => [
  'setpriv',
  ['--reuid=postgres', '--regid=postgres', '--clear-groups', ...command],
]

const pgbench: Workload = {
  name: 'pgbench',
  what: 'PostgreSQL on a lower cluster: pgbench with two clients, milliseconds a transaction',
  changes: true,
  missing: () =>
    postgresPrograms() !== undefined && installed('pgbench')
      ? undefined
      : 'PostgreSQL is not installed (postgresql)',
  prepare: input => {
    const programs = postgresPrograms() ?? ''
    const cluster = path.join(input.lower, 'cluster')
    fs.mkdirSync(cluster)
    run('chown', ['postgres:postgres', cluster, input.extra])
    runQuietly(...asPostgres(`${programs}/initdb`, '--no-sync', '-A', 'trust', '-D', cluster))
    withServer(cluster, input.extra, () =>
      runQuietly(
        ...asPostgres(
          'pgbench',
          '-q',
          '-i',
          '-s',
          `${Math.max(1, input.scaled(10))}`,
          '-h',
          input.extra,
          'postgres',
        ),
      ),
    )
  },
  run: async sample => {
    const cluster = path.join(sample.path, 'cluster')
    run('chown', ['postgres:postgres', sample.scratch])
    await sample.take('', 'ms', () => {
      let milliseconds = NaN
      withServer(cluster, sample.scratch, () => {
        const count = Math.max(100, sample.input.scaled(1000))
        const said = run(
          ...asPostgres('pgbench', '-n', '-c', '2', '-t', `${count}`, '-h', sample.scratch, 'postgres'),
        )
        milliseconds = Number(/latency average = ([\d.]+) ms/.exec(said)?.[1])
      })
      return milliseconds
    })
  },
}

function withServer(cluster: string, socket: string, action: () => void): void {
  const control = path.join(postgresPrograms() ?? '', 'pg_ctl')
  runQuietly(
    ...asPostgres(
      control,
      '-D',
      cluster,
      '-w',
      '-l',
      `${socket}/log`,
      '-o',
      `-c listen_addresses= -k ${socket}`,
      'start',
    ),
  )
  try {
    action()
  } finally {
    runQuietly(...asPostgres(control, '-D', cluster, '-w', '-m', 'fast', 'stop'))
  }
}

export const DATA: readonly Workload[] = [fioUpper, fioLower, copyUp, sqlite, pgbench]
