/** Random build contexts and Containerfiles of COPY, ADD, WORKDIR and USER. */
import { chmodSync, linkSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import type { Random } from './random.js'

const NAMES = [
  'a',
  'b',
  'c.txt',
  'd.log',
  'lib',
  'src',
  '.hidden',
  'with space',
  'x[1]',
  'ümlaut',
  'UP',
  'e.tar.d',
]
const MODES = [0o644, 0o600, 0o755, 0o4755, 0o2711, 0o666]
const DIR_MODES = [0o755, 0o700, 0o1777, 0o2775]

export interface GeneratedBuild {
  readonly file: string
  /** Text of .dockerignore. */
  readonly ignore: string | undefined
}

/** Fills `dir`. */
export function generateBuild(random: Random, dir: string): GeneratedBuild {
  const paths = tree(random, dir)
  const ignore = random.chance(0.4) ? ignoreText(random, paths) : undefined
  if (ignore !== undefined) writeFileSync(join(dir, '.dockerignore'), ignore)
  const lines = ['FROM scratch']
  const steps = random.below(5) + 1
  for (let i = 0; i < steps; i += 1) lines.push(step(random, paths))
  return { file: `${lines.join('\n')}\n`, ignore }
}

interface Paths {
  readonly files: string[]
  readonly directories: string[]
  readonly archives: string[]
}

function tree(random: Random, dir: string): Paths {
  const paths: Paths = { files: [], directories: [], archives: [] }
  const taken = new Set<string>()
  const name = (): string => {
    const parent = random.chance(0.5) ? '' : (pick(random, paths.directories) ?? '')
    return parent === '' ? random.pick(NAMES) : `${parent}/${random.pick(NAMES)}`
  }
  const count = random.below(14) + 4
  for (let i = 0; i < count; i += 1) {
    const path = name()
    if (taken.has(path)) continue
    taken.add(path)
    const full = join(dir, path)
    const kind = random.below(10)
    if (kind < 4) {
      mkdirSync(full)
      chmodSync(full, random.pick(DIR_MODES))
      paths.directories.push(path)
    } else if (kind < 8) {
      writeFileSync(full, `${path} ${random.below(1000)}\n`)
      chmodSync(full, random.pick(MODES))
      paths.files.push(path)
    } else if (kind === 8) {
      // Within the tree, and never to nothing: a link that dangles is an error wherever it is named.
      const target = pick(random, [...paths.files, ...paths.directories])
      if (target === undefined) continue
      symlinkSync('../'.repeat(path.split('/').length - 1) + target, full)
    } else {
      const first = pick(random, paths.files)
      if (first === undefined) continue
      linkSync(join(dir, first), full)
      paths.files.push(path)
    }
  }
  const packed = pick(random, paths.directories)
  if (packed !== undefined && random.chance(0.4)) {
    const options = ['--owner=12', '--group=34', '-czf', join(dir, 'packed.tgz'), '-C', dir, packed]
    spawnSync('tar', options)
    paths.archives.push('packed.tgz')
  }
  return paths
}

function pick<T>(random: Random, of: readonly T[]): T | undefined {
  return of.length === 0 ? undefined : random.pick(of)
}

function ignoreText(random: Random, { files, directories }: Paths): string {
  const all = [...files, ...directories]
  const lines: string[] = []
  if (random.chance(0.3)) lines.push('*')
  const count = random.below(3) + 1
  for (let i = 0; i < count; i += 1) {
    const path = pick(random, all)
    const pattern = random.pick([
      '*.log',
      '**/*.txt',
      'lib',
      '**/a',
      escaped(path ?? 'b'),
      escaped(path ?? 'c'),
    ])
    lines.push(`${random.chance(0.3) ? '!' : ''}${pattern}`)
  }
  return `${lines.join('\n')}\n`
}

function escaped(path: string): string {
  return path.replace(/[[\]]/g, '?')
}

/** Buildah 1.28 takes a name with brackets for a pattern once more: such names are reached by their directory alone. */
function plain(paths: readonly string[]): string[] {
  return paths.filter(path => !path.includes('['))
}

function step(random: Random, paths: Paths): string {
  const kind = random.below(10)
  if (kind === 0) return `WORKDIR ${random.pick(['/w', 'sub', '/w/deep/er', '..'])}`
  if (kind === 1) return `USER ${random.pick(['1000', '1000:2000', '0'])}`
  const isAdd = random.chance(0.3)
  const flags = [
    ...(random.chance(0.3) ? [`--chown=${random.pick(['5', '6:7', '0:9'])}`] : []),
    ...(random.chance(0.2) ? [`--chmod=${random.pick(['0644', '755', '0711'])}`] : []),
  ]
  const sources = [source(random, paths, isAdd)]
  while (random.chance(0.3)) sources.push(source(random, paths, isAdd))
  const slash = sources.length > 1 || random.chance(0.6) ? '/' : ''
  const destination = random.pick(['/out', '/out/in', 'rel', '/a', '/lib', '/out/link', '.', '/'])
  const words = [
    ...sources,
    destination.endsWith('/') || destination === '.' ? './' : `${destination}${slash}`,
  ]
  return `${isAdd ? 'ADD' : 'COPY'} ${[...flags, JSON.stringify(words)].join(' ')}`
}

function source(random: Random, { files, directories, archives }: Paths, isAdd: boolean): string {
  const kind = random.below(10)
  const archive = pick(random, archives)
  if (isAdd && kind < 3 && archive !== undefined) return archive
  if (kind < 5) return pick(random, plain(files)) ?? '.'
  if (kind < 8) return pick(random, plain(directories)) ?? '.'
  return random.pick(['.', '?.txt', '*.log', '[a-c]*', 'lib/*', 'nothing*'])
}
