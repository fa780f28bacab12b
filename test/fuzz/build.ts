/**
 * Random Containerfiles through Buildah and through Lamina: the trees must be the same, or the difference be listed.
 *   npm run fuzz:build -- --files 500 --seed 1 [--keep DIR]
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { buildImage } from '../../src/manager/build/build.js'
import { readTree } from '../../src/manager/build/step-box.js'
import { Store } from '../../src/manager/index.js'
import { parseContainerfile, parseDockerignore } from '../../src/oci/index.js'
import { listedDifference, type Outcome } from './build-differences.js'
import { generateBuild, type GeneratedBuild } from './build-generate.js'
import { treeLines } from './build-tree.js'
import { Random } from './random.js'

export interface BuildFuzz {
  readonly files: number
  readonly seed: number
  /** Told of each difference that is not listed. */
  readonly onDifference?: (text: string) => void
}

/** @returns how many were the same, failed in both, differed as listed, by reason, and otherwise */
export async function fuzzBuild({ files, seed, onDifference }: BuildFuzz): Promise<Map<string, number>> {
  const dir = mkdtempSync(join(tmpdir(), 'lamina-fuzz-build-'))
  const counts = new Map<string, number>()
  try {
    using store = await Store.open({ root: join(dir, 'store') })
    for (let i = 0; i < files; i += 1) {
      const context = join(dir, `context-${i}`)
      mkdirSync(context)
      const build = generateBuild(new Random(seed * 100_000 + i), context)
      const ours = await lamina(store, build, context)
      const theirs = buildah(dir, build, context)
      const verdict = judge(build, ours, theirs)
      counts.set(verdict, (counts.get(verdict) ?? 0) + 1)
      if (verdict === 'different') onDifference?.(describe(seed * 100_000 + i, build, ours, theirs))
      rmSync(context, { recursive: true })
    }
  } finally {
    spawnSync('buildah', [...storeOf(dir), 'rmi', '--all', '--force'])
    for (const mount of ['root/overlay', 'root/vfs']) spawnSync('umount', ['-l', join(dir, mount)])
    rmSync(dir, { recursive: true, force: true })
  }
  return counts
}

function judge(build: GeneratedBuild, ours: Outcome, theirs: Outcome): string {
  if (ours.error !== undefined && theirs.error !== undefined) return 'failed in both'
  if (
    ours.error === undefined &&
    ours.lines.join('\n') === theirs.lines.join('\n') &&
    theirs.error === undefined
  )
    return 'same'
  return listedDifference(build, ours, theirs) ?? 'different'
}

async function lamina(store: Store, { file, ignore }: GeneratedBuild, context: string): Promise<Outcome> {
  try {
    const image = await buildImage(store, {
      containerfile: parseContainerfile(file),
      context,
      useCache: false,
      ...(ignore === undefined ? {} : { ignore: parseDockerignore(ignore) }),
    })
    if (image.chainId === undefined) return { lines: [] }
    return { lines: await readTree(store, image.chainId, path => Promise.resolve(treeLines(path))) }
  } catch (error) {
    return { lines: [], error: error instanceof Error ? error.message : 'unknown' }
  }
}

function storeOf(dir: string): string[] {
  return ['--root', join(dir, 'root'), '--runroot', join(dir, 'run'), '--storage-driver', 'vfs']
}

function buildah(dir: string, { file }: GeneratedBuild, context: string): Outcome {
  const containerfile = join(dir, 'Containerfile')
  writeFileSync(containerfile, file)
  const archive = join(dir, 'out.tar')
  const options = [
    '--layers=false',
    '--isolation',
    'chroot',
    '-o',
    `type=tar,dest=${archive}`,
    '-f',
    containerfile,
  ]
  const { status, stderr } = spawnSync('buildah', [...storeOf(dir), 'bud', '-q', ...options, context], {
    encoding: 'utf8',
  })
  if (status !== 0) return { lines: [], error: stderr.trim().split('\n').at(-1) ?? '' }
  const tree = join(dir, 'tree')
  mkdirSync(tree)
  try {
    const unpacked = spawnSync('tar', ['--numeric-owner', '-xpf', archive, '-C', tree], { encoding: 'utf8' })
    if (unpacked.status !== 0) throw new Error(unpacked.stderr)
    return { lines: treeLines(tree) }
  } finally {
    rmSync(tree, { recursive: true })
    rmSync(archive)
  }
}

function describe(seed: number, { file, ignore }: GeneratedBuild, ours: Outcome, theirs: Outcome): string {
  const only = (a: readonly string[], b: readonly string[], mark: string): string[] =>
    a.filter(line => !b.includes(line)).map(line => `${mark} ${line}`)
  return [
    `--- seed ${seed}`,
    file.trim(),
    ...(ignore === undefined ? [] : [`.dockerignore: ${JSON.stringify(ignore)}`]),
    ...(ours.error === undefined ? [] : [`lamina: ${ours.error}`]),
    ...(theirs.error === undefined ? [] : [`buildah: ${theirs.error}`]),
    ...only(ours.lines, theirs.lines, 'lamina '),
    ...only(theirs.lines, ours.lines, 'buildah'),
  ].join('\n')
}

if (process.argv[1]?.endsWith('/test/fuzz/build.js') === true) {
  const { values } = parseArgs({ options: { files: { type: 'string' }, seed: { type: 'string' } } })
  const counts = await fuzzBuild({
    files: Number(values.files ?? 100),
    seed: Number(values.seed ?? 1),
    onDifference: text => console.log(text),
  })
  for (const [verdict, count] of counts) console.log(`${count} ${verdict}`)
  process.exitCode = counts.has('different') ? 1 : 0
}
