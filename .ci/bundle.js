/**
 * Puts what tsc wrote into few files: the daemon into one, each program of bin/ into one. Loading a hundred modules one by
 * one takes Node longer than most commands do (HACKING.md, "Start-up", has figures). Started by prepare.js.
 *
 * The programs are CommonJS, which alone can be given compiled code to start from on every Node (bin/load.js); a group of
 * commands in them is still evaluated only when it is asked for. commander is put in too, with its licence; the other npm
 * packages stay where they are.
 */
import { build } from 'esbuild'
import { createHash } from 'node:crypto'
import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const compiled = join(root, 'dist/src')
const require = createRequire(import.meta.url)

/** Modules find their neighbours (the addon, threads, package.json) from where they were, not from the bundle. */
function keepUrls(outdir, bundleUrl) {
  return {
    name: 'keep-urls',
    setup({ onLoad }) {
      onLoad({ filter: /\.js$/ }, async ({ path }) => {
        if (!path.startsWith(`${compiled}/`)) return undefined
        const url = `new URL(${JSON.stringify(relative(outdir, path))}, ${bundleUrl}).href`
        return { contents: (await readFile(path, 'utf8')).replaceAll('import.meta.url', url), loader: 'js' }
      })
    },
  }
}

/**
 * Modules of Node's that cost milliseconds to load and that most commands never call, loaded at the first use. Only such as
 * have the same exports in every Node: the list is made here.
 */
const LAZY = ['node:child_process', 'node:crypto', 'node:net']
const lazyBuiltins = {
  name: 'lazy-builtins',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: new RegExp(`^(${LAZY.join('|')})$`) }, ({ path, namespace }) =>
      namespace === 'lazy' ? { path, external: true } : { path, namespace: 'lazy' },
    )
    onLoad({ filter: /.*/, namespace: 'lazy' }, ({ path }) => ({
      contents: `for (const key of ${JSON.stringify(Object.keys(require(path)))})
        Object.defineProperty(exports, key, { enumerable: true, get: () => require(${JSON.stringify(path)})[key] })`,
    }))
  },
}

const { dependencies, optionalDependencies } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'))
const common = { bundle: true, platform: 'node', target: 'node20', logLevel: 'warning' }

const daemon = join(compiled, 'daemon/main.js')
await build({
  ...common,
  format: 'esm',
  packages: 'external',
  entryPoints: [daemon],
  outfile: daemon.replace(/\.js$/, '.bundle.js'),
  plugins: [keepUrls(dirname(daemon), 'import.meta.url')],
})

const outdir = join(compiled, 'cli')
const license = await readFile(join(dirname(require.resolve('commander')), 'LICENSE'), 'utf8')
const { outputFiles } = await build({
  ...common,
  format: 'cjs',
  external: Object.keys({ ...dependencies, ...optionalDependencies }).filter(name => name !== 'commander'),
  // import() of what is not in the bundle would need a loader; require() does.
  supported: { 'dynamic-import': false },
  // White space is a third of the text, and all of it is read at each start; names stay, for stacks.
  minifyWhitespace: true,
  lineLimit: 120,
  entryPoints: ['main', 'fuse-lamina'].map(name => join(outdir, `${name}.js`)),
  outdir,
  outExtension: { '.js': '.bundle.cjs' },
  write: false,
  footer: { js: `/* Contains commander:\n${license}*/` },
  plugins: [keepUrls(outdir, "require('node:url').pathToFileURL(__filename)"), lazyBuiltins],
})
for (const { path, text } of outputFiles) {
  // What esbuild leaves as it is (regular expressions): pure ASCII is read fastest, and is one byte a character in memory.
  const ascii = text.replace(/[^\0-\x7f]/g, c => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)
  // The first line tells one bundle from another: compiled code is kept by it.
  const digest = createHash('sha256').update(ascii).digest('hex')
  await writeFile(`${path}.new`, `// ${digest}\n${ascii}`)
  // A command may be starting now.
  await rename(`${path}.new`, path)
}
// Of builds before this one, and what was compiled from them.
await rm(join(outdir, 'bundle'), { recursive: true, force: true })
await rm(join(root, 'dist/.cache'), { recursive: true, force: true })
