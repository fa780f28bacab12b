import { spawn, type ChildProcess } from 'node:child_process'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import t from 'tap'
import { Random } from '../fuzz/random.js'
import { skipBox, withBox } from './box-image.js'
import { leftovers, PROJECT, type Bench } from './fixture.js'

/**
 * kill -9 of each process involved, at random, while containers with limits, volumes and a tmpfs are created, mounted, written to,
 * run, unmounted and removed: what was synced is there at the next mount, everything can be removed by the usual commands, and then
 * nothing is left. LAMINA_KILLS=N is the number of rounds (npm run test:kill:containers: 300), LAMINA_SEED=N the dice.
 */

const ROUNDS = Number(process.env['LAMINA_KILLS'] ?? 4)
const SEED = Number(process.env['LAMINA_SEED'] ?? Date.now() % 1_000_000)
/** Of a round; each kill comes in one of them. */
const STEPS = 10
/** The one in which nothing but `run` is waited for. */
const RUNNING = 7
/** Milliseconds from the beginning of a step. */
const LONGEST = 500

/** Says a number when the files of that number are on disk, in all three places. */
const WRITE =
  'cd "$1" && mkdir -p root || exit 1; i=0; while [ $i -lt 30 ]; do i=$((i+1)); for d in root data limited; do ' +
  'dd if=/dev/zero of=$d/$d-$i bs=4k count=2 conv=fsync status=none || exit 1; sync $d || exit 1; done; echo $i; done'
const INSIDE =
  'i=0; while [ $i -lt 25 ]; do i=$((i+1)); echo $i > /data/run; echo $i > /limited/run; echo $i > /t/run; sleep 0.05; done'

type Kind = 'command' | 'daemon' | 'runtime' | 'inside' | 'monitor'

void t.test(`${ROUNDS} rounds`, { skip: skipBox }, async t => {
  t.comment(`seed ${SEED}`)
  const random = new Random(SEED)
  const bench = await withBox(t)
  const killed: Record<Kind, number> = { command: 0, daemon: 0, runtime: 0, inside: 0, monitor: 0 }
  for (let round = 0; round < ROUNDS; round += 1) {
    const world = new Round(bench, random)
    const problems = await world.play()
    for (const kind of world.killed) killed[kind] += 1
    problems.push(...(await world.clear()))
    if (!t.same(problems, [], `round ${round}, killed ${world.killed.join(', ')}: ${world.steps.join('; ')}`))
      break
  }
  t.comment(JSON.stringify(killed))
  const least = ROUNDS < 200 ? 0 : 5
  for (const [kind, count] of Object.entries(killed)) t.ok(count >= least, `${kind}: ${count}`)
})

class Round {
  readonly steps: string[] = []
  readonly killed: Kind[] = []
  /** The last file that each writer has said to be on disk. */
  #written = 0

  constructor(
    readonly bench: Bench,
    readonly random: Random,
  ) {}

  /** All the commands, while some of what they start is killed. What fails before anything was killed is a problem. */
  async play(): Promise<string[]> {
    const problems: string[] = []
    const plan = Array.from({ length: 1 + this.random.below(3) }, () => this.#someStep())
    const kills: Promise<void>[] = []
    let number = 0
    const begin = (): void => {
      for (const one of plan) if (one === number) kills.push(this.#killIn(this.random.below(LONGEST)))
      number += 1
    }
    const step = async (...args: string[]): Promise<void> => {
      begin()
      const { code, said } = await this.#lamina(args)
      if (code !== 0 && this.killed.length === 0) problems.push(`${args.join(' ')}: ${code} ${said}`)
      // A command that was not killed itself says what is wrong in one line.
      if (code !== null && code !== 137 && /\n {4}at /.test(said)) problems.push(`${args.join(' ')}: ${said}`)
    }
    await step('volume', 'create', '-o', 'size=8m', 'limited')
    await step(
      'container',
      'create',
      '--name',
      'one',
      '--storage-opt',
      'size=16m',
      ...VOLUMES,
      '-v',
      '/anonymous',
      'box',
    )
    await step('container', 'mount', 'one')
    begin()
    const writer = this.#write()
    const detached = this.random.chance(0.5)
    const inside = step(
      'run',
      ...(detached ? ['-d', '--name', 'two'] : []),
      '--rm',
      '-e',
      `LAMINA_ROOT=${this.bench.root}`,
      ...VOLUMES,
      '-v',
      '/more',
      'box',
      'sh',
      '-c',
      INSIDE,
    )
    await step('container', 'cp', join(PROJECT, 'package.json'), 'one:/copied')
    await step('container', 'diff', 'one')
    await writer
    begin()
    await inside
    if (detached) await this.#lamina(['wait', 'two'])
    await step('container', 'umount', 'one')
    await step('container', 'rm', '-v', 'one')
    await Promise.all(kills)
    return problems
  }

  /** As a user goes on after a crash. */
  async clear(): Promise<string[]> {
    const problems: string[] = []
    const must = async (...args: string[]): Promise<string> => {
      const { code, said } = await this.#lamina(args)
      if (code !== 0) problems.push(`afterwards, ${args.join(' ')}: ${code} ${said}`)
      return said
    }
    const lines = async (...args: string[]): Promise<string[]> =>
      (await must(...args)).split('\n').filter(Boolean)
    // One whose command was killed runs on, and ends by itself.
    for (let tries = 0; tries < 200 && this.#processes().monitor !== undefined; tries += 1) await wait(100)
    const names = await lines('container', 'ls', '-a', '--format', '{{.name}}')
    const volumes = await lines('volume', 'ls', '-q')
    if (names.includes('one')) {
      const root = (await must('container', 'mount', 'one')).trim()
      for (const place of ['root', 'data', 'limited'])
        for (const file of this.#files(place))
          if (!existsSync(join(root, place, file)))
            problems.push(`${place}/${file} was on disk and is not there`)
      await must('container', 'umount', '--all', 'one')
      await must('container', 'rm', '-v', 'one')
    }
    for (const name of names) if (name !== 'one') problems.push(`container ${name} is left of a run --rm`)
    for (const name of ['data', 'limited']) if (volumes.includes(name)) await must('volume', 'rm', name)
    const check = await must('system', 'check')
    if (check !== 'Nothing is wrong.\n') problems.push(check)
    problems.push(...leftovers(this.bench.root))
    for (const dir of ['containers', 'volumes'])
      for (const name of readdirSync(join(this.bench.root, dir))) problems.push(`left: ${dir}/${name}`)
    for (const [kind, pids] of Object.entries(await this.#soonNone()))
      problems.push(`left: ${kind} ${pids.join()}`)
    return problems
  }

  #files(place: string): string[] {
    return Array.from({ length: this.#written }, (_, i) => `${place}-${i + 1}`)
  }

  /** Numbered files into the rootfs and both volumes, each synced before it is counted. */
  async #write(): Promise<void> {
    const merged = readdirSync(join(this.bench.root, 'containers')).map(id =>
      join(this.bench.root, 'containers', id, 'merged'),
    )[0]
    if (merged === undefined) return
    this.steps.push('write')
    const { said } = await collect(
      spawn('sh', ['-c', WRITE, 'sh', merged], { stdio: ['ignore', 'pipe', 'ignore'] }),
    )
    this.#written = said.split('\n').filter(Boolean).length
  }

  async #lamina(args: string[]): Promise<{ code: number | null; said: string }> {
    this.steps.push(args.slice(0, 2).join(' '))
    const result = await collect(
      spawn(process.execPath, [join(PROJECT, 'bin/lamina.js'), ...args], {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...process.env, LAMINA_ROOT: this.bench.root, LAMINA_STORAGE_DRIVER: 'fuse' },
      }),
    )
    if (result.code !== 0) this.steps.push(`(${result.code} ${result.said.trim()})`)
    return result
  }

  /** Every third kill while a command runs in the container. */
  #someStep(): number {
    return this.random.chance(0.3) ? RUNNING : this.random.below(STEPS)
  }

  async #killIn(milliseconds: number): Promise<void> {
    await wait(milliseconds)
    const there = Object.entries(this.#processes()) as [Kind, number[]][]
    if (there.length === 0) return
    // What runs in a container is there for a short part of the round only.
    const rare = there.filter(([kind]) => ['runtime', 'inside', 'monitor'].includes(kind))
    const [kind, pids] = this.random.pick(rare.length > 0 && this.random.chance(0.7) ? rare : there)
    try {
      process.kill(this.random.pick(pids), 'SIGKILL')
      this.killed.push(kind)
      this.steps.push(`kill ${kind}`)
    } catch {
      // Gone since we looked.
    }
  }

  /** What works for this store, by what it is: everything that has its name in its environment. */
  #processes(): Partial<Record<Kind, number[]>> {
    const found: Partial<Record<Kind, number[]>> = {}
    const mark = `LAMINA_ROOT=${this.bench.root}\0`
    for (const name of readdirSync('/proc')) {
      if (!/^\d+$/.test(name) || Number(name) === process.pid) continue
      try {
        if (!readFileSync(`/proc/${name}/environ`, 'latin1').includes(mark)) continue
        const words = readFileSync(`/proc/${name}/cmdline`, 'latin1')
        const kind: Kind | undefined = words.includes('bin/lamina.js')
          ? 'command'
          : /lamina-monitor|containers\/monitor\.js/.test(words)
            ? 'monitor'
            : words.includes('bin/daemon.js')
              ? 'daemon'
              : /(^|\/)(crun|runc)\0/.test(words)
                ? 'runtime'
                : words === ''
                  ? undefined // a zombie
                  : 'inside'
        if (kind !== undefined) (found[kind] ??= []).push(Number(name))
      } catch {
        // Gone since it was listed.
      }
    }
    return found
  }

  /** A daemon ends a moment after its mount. */
  async #soonNone(): Promise<Partial<Record<Kind, number[]>>> {
    let there = this.#processes()
    for (let tries = 0; tries < 50 && Object.keys(there).length > 0; tries += 1) {
      await wait(100)
      there = this.#processes()
    }
    return there
  }
}

const VOLUMES = ['-v', 'data:/data', '-v', 'limited:/limited', '--tmpfs', '/t:size=1m']

async function collect(child: ChildProcess): Promise<{ code: number | null; said: string }> {
  let said = ''
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => (said += chunk))
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => (said += chunk))
  const code = await new Promise<number | null>(resolve => child.once('close', resolve))
  return { code, said }
}
