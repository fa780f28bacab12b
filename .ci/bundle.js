/**
 * Puts what tsc wrote into few files: the daemon into one, the command line into one a group of commands. Loading a
 * hundred modules one by one takes Node longer than most commands do (HACKING.md, "Start-up", has figures).
 * Started by prepare.js. npm packages stay where they are.
 */
import { build } from 'esbuild'
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { basename, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const compiled = fileURLToPath(new URL('../dist/src', import.meta.url))

/** Modules find their neighbours (the addon, threads, package.json) from where they were, not from the bundle. */
function keepUrls(outdir) {
  return {
    name: 'keep-urls',
    setup({ onLoad }) {
      onLoad({ filter: /\.js$/ }, async ({ path }) => {
        if (!path.startsWith(`${compiled}/`)) return undefined
        const url = `new URL(${JSON.stringify(relative(outdir, path))}, import.meta.url).href`
        return { contents: (await readFile(path, 'utf8')).replaceAll('import.meta.url', url), loader: 'js' }
      })
    },
  }
}

const common = {
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  packages: 'external',
  logLevel: 'warning',
}
const daemon = join(compiled, 'daemon/main.js')
const commands = join(compiled, 'cli/main.js')
const outdir = join(dirname(commands), 'bundle')
await build({
  ...common,
  entryPoints: [daemon],
  outfile: daemon.replace(/\.js$/, '.bundle.js'),
  plugins: [keepUrls(dirname(daemon))],
})
const written = await build({
  ...common,
  entryPoints: [commands],
  splitting: true,
  outdir,
  chunkNames: '[name]-[hash]',
  write: false,
  plugins: [keepUrls(outdir)],
})
// A command may be starting now: chunks have names of their own, and main.js, which names them, is replaced last.
const temporary = `${outdir}/main.js.new`
await mkdir(outdir, { recursive: true })
for (const { path, contents } of written.outputFiles) {
  await writeFile(path.endsWith('/bundle/main.js') ? temporary : path, contents)
}
await rename(temporary, join(outdir, 'main.js'))
const names = new Set(written.outputFiles.map(file => basename(file.path)))
for (const name of await readdir(outdir)) if (!names.has(name)) await rm(join(outdir, name))
