/**
 * TypeScript to JavaScript, file by file, without a look at types (`npm run types` checks those, and lint calls it): a
 * second in place of a minute. Started by prepare.js. Only what is older than its source is written; what has no source
 * any more is removed.
 */
import { build } from 'esbuild'
import { readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const dist = join(root, 'dist')
const modified = path => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0
const filesBelow = (directory, ending) =>
  readdirSync(join(root, directory), { recursive: true })
    .filter(name => name.endsWith(ending))
    .map(name => join(directory, name))

const sources = ['src', 'test'].flatMap(directory => filesBelow(directory, '.ts'))
const compiledOf = source => join(dist, source.replace(/\.ts$/, '.js'))
/** A setting of the compiler's own, or of this program, changes every file. */
const settings = Math.max(modified(join(root, 'tsconfig.json')), modified(join(root, '.ci/compile.js')))
const stale = sources.filter(source => {
  if (source.endsWith('.d.ts')) return false
  const compiled = modified(compiledOf(source))
  return compiled < modified(join(root, source)) || compiled < settings
})
if (stale.length > 0) {
  await build({
    entryPoints: stale.map(source => join(root, source)),
    outbase: root,
    outdir: dist,
    absWorkingDir: root,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    sourcemap: true,
    // Names in error messages and stacks are those of the source.
    keepNames: false,
    logLevel: 'warning',
  })
}
const wanted = new Set(sources.map(compiledOf))
for (const directory of ['src', 'test']) {
  for (const name of readdirSync(join(dist, directory), { recursive: true })) {
    const path = join(dist, directory, name)
    if (/(?<!\.bundle)\.js$/.test(name) && !wanted.has(path)) {
      rmSync(path)
      rmSync(`${path}.map`, { force: true })
    }
  }
}
writeFileSync(join(dist, '.compiled'), '')
