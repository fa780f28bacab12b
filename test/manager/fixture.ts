import { spawn, spawnSync, type SpawnSyncReturns } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Store, type StoreOptions } from '../../src/manager/index.js'
import { treeUsage } from '../../src/manager/tree-usage.js'

/** Stores for tests: a directory of one's own, unmounted and removed afterwards, also when the test fails. */

export const PROJECT = resolve(dirname(fileURLToPath(import.meta.url)), '../../..')
const LAMINA = join(PROJECT, 'bin/lamina.js')

export const isRoot = process.geteuid?.() === 0

/** Why `program` is not there; undefined when it is. */
export function lacking(program: string): string | undefined {
  return spawnSync('sh', ['-c', `command -v ${program}`]).status === 0
    ? undefined
    : `${program} is not installed`
}

interface Test {
  teardown(end: () => unknown): void
}

export class Bench {
  readonly dir: string

  constructor(t: Test, parent = tmpdir()) {
    this.dir = mkdtempSync(join(parent, 'lamina-manager-'))
    t.teardown(() => this.#clear())
  }

  get root(): string {
    return join(this.dir, 'store')
  }

  path(...parts: string[]): string {
    return join(this.dir, ...parts)
  }

  async open(options: StoreOptions = {}): Promise<Store> {
    return await Store.open({ root: this.root, ...options })
  }

  /** Runs `lamina` as a user does. */
  lamina(...args: string[]): SpawnSyncReturns<string> {
    return this.laminaWith({}, ...args)
  }

  laminaWith(
    options: { input?: Buffer | string; cwd?: string; env?: NodeJS.ProcessEnv },
    ...args: string[]
  ): SpawnSyncReturns<string> {
    return spawnSync(process.execPath, [LAMINA, ...args], {
      encoding: 'utf8',
      maxBuffer: 1 << 28,
      ...(options.input === undefined ? {} : { input: options.input }),
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      env: { ...process.env, LAMINA_ROOT: this.root, ...options.env },
    })
  }

  /** Starts `lamina` and does not wait. */
  start(...args: string[]): ReturnType<typeof spawn> {
    return spawn(process.execPath, [LAMINA, ...args], {
      stdio: 'ignore',
      env: { ...process.env, LAMINA_ROOT: this.root },
    })
  }

  /** Standard output of a command that must succeed. */
  run(...args: string[]): string {
    const { status, stdout, stderr } = this.lamina(...args)
    if (status !== 0) throw new Error(`lamina ${args.join(' ')} ended with ${status}: ${stderr}`)
    return stdout
  }

  /** Writes files, making directories: `{ 'a/b': 'text' }`. */
  tree(name: string, files: Readonly<Record<string, string>>): string {
    const root = this.path(name)
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(root, path)), { recursive: true })
      writeFileSync(join(root, path), text)
    }
    return root
  }

  #clear(): void {
    const mounts = readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .map(line => line.split(' ')[1] ?? '')
    for (const target of mounts.filter(path => path.startsWith(`${this.dir}/`)).reverse()) {
      spawnSync('umount', ['-l', target])
    }
    if (existsSync(this.dir)) rmSync(this.dir, { recursive: true, force: true })
  }
}

/** Nothing in the store but what rows say: no claim, no scratch, no partial file, no mount. */
export function leftovers(root: string): string[] {
  const found: string[] = []
  for (const dir of ['claims', 'scratch', 'partial']) {
    const path = join(root, dir)
    const names = existsSync(path)
      ? spawnSync('ls', ['-A', path], { encoding: 'utf8' }).stdout.split('\n')
      : []
    for (const name of names) if (name !== '' && name !== 'empty') found.push(`${dir}/${name}`)
  }
  for (const line of readFileSync('/proc/self/mounts', 'utf8').split('\n')) {
    if (line.split(' ')[1]?.startsWith(`${root}/`) === true) found.push(`mount ${line}`)
  }
  return found
}

export function run(program: string, args: readonly string[], options: { input?: Buffer } = {}): string {
  const { status, stdout, stderr } = spawnSync(program, args, {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    ...(options.input === undefined ? {} : { input: options.input }),
  })
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${status}: ${stderr}`)
  return stdout
}

/** Every path with type, mode, owner, size, link target, mtime and a checksum: what two trees are compared by. */
export function manifest(dir: string): string[] {
  const find = run('find', [dir, '-mindepth', '1', '-printf', '%P|%y|%m|%U:%G|%s|%l|%T@|%n\n'])
  const sums = run('sh', [
    '-c',
    'cd "$1" && find . -type f -print0 | sort -z | xargs -0 -r sha256sum',
    'sh',
    dir,
  ])
  const lines = find.split('\n').filter(line => line !== '')
  // The size and link count of a directory are the filesystem's business.
  const normal = lines.map(line => {
    const fields = line.split('|')
    if (fields[1] === 'd') [fields[4], fields[7]] = ['', '']
    return fields.join('|')
  })
  return [...normal.sort(), ...sums.split('\n').filter(line => line !== '')]
}

export { treeUsage }
